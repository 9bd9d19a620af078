"""Output formats: the output tensor names of a model file, and reading one image from the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RunnerError
from .images.pixels import undo_letterbox
from .spec import Letterbox, ModelSpec

Floats = npt.NDArray[np.float32]

# Output tensor names of the output contract (CONTRIBUTING.md).
FLAT_OUTPUTS = ("flat_predictions",)
_WHAT = {"pose": ("pred_joints",), "detection": ("pred_classes",)}


def batch_outputs(task: str) -> tuple[str, ...]:
    return ("num_predictions", "pred_boxes", "pred_scores", *_WHAT[task])


def raw_outputs(task: str) -> tuple[str, ...]:
    """Returns the output names of a file without NMS; the scores of a detection model are those of all classes."""
    return ("pred_boxes", "pred_scores", *(_WHAT[task] if task == "pose" else ()))


def read_rows(
    outputs: Mapping[str, npt.NDArray[Any]], spec: ModelSpec, index: int, placed: Letterbox | None
) -> tuple[Floats, Floats, npt.NDArray[Any]]:
    """Reads the predictions of one image from the outputs of a batch.

    Args:
        outputs: the arrays a runner returned, by output name.
        spec: description of the model file.
        index: position of the image in the batch.
        placed: how the image was letterboxed; None leaves boxes in px of the network input.

    Returns:
        Boxes (N, 4) float32 xyxy px, scores (N,) float32, and the joints or classes of each row in the layout of the
        file's format. Boxes are px of the source image when ``placed`` is given; joints are not moved.

    Raises:
        RunnerError: the file holds no final predictions (exported with ``postprocessing=False``).
    """
    if spec.output.format == "flat":
        flat = outputs["flat_predictions"]  # (M, 6 + the rest)
        rows = flat[flat[:, 0] == index]
        boxes, scores, rest = rows[:, 1:5], rows[:, 5], rows[:, 6:]
    elif spec.output.format == "batch":
        count = int(outputs["num_predictions"][index, 0])
        boxes, scores = outputs["pred_boxes"][index, :count], outputs["pred_scores"][index, :count]
        rest = outputs["pred_joints" if spec.task == "pose" else "pred_classes"][index, :count]
    elif spec.output.format == "rcnn":
        boxes, scores = outputs["boxes"], outputs["scores"]
        logits = outputs["keypoints_scores"][..., None]  # (N, J, 1)
        rest = np.concatenate([outputs["keypoints"][..., :2], 1.0 / (1.0 + np.exp(-logits))], axis=2)
    else:
        what = "poses" if spec.task == "pose" else "detections"
        raise RunnerError(
            f"reading {what}: {spec.model} was exported with postprocessing off, so its outputs are undecided"
            " candidates. Export it with postprocessing=True."
        )
    boxes = boxes.astype(np.float32)
    if placed is not None:
        boxes = undo_letterbox(boxes.reshape(-1, 2, 2), placed).reshape(-1, 4)
    return boxes, scores.astype(np.float32), rest
