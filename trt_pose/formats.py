"""The output formats: which tensors a file gives, and how the predictions of one image are read from them.

To add a format, add a member to ``DetectionOutputFormatMode``, a class to this table, and a module that makes its
tensors to ``export/format_modules.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RunnerError
from .images.pixels import undo_letterbox
from .spec import Letterbox, ModelSpec
from .tasks import TASKS, Task, find_task

Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, npt.NDArray[Any]]
Rows = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


class Format:
    """An output format.

    Attributes:
        name: as ``OutputSpec.format`` holds it.
        finished: the tensors are final predictions, after selection.
        rows_vary: the number of rows depends on the data. TensorRT-RTX cannot build such a graph.
    """

    name = ""
    finished = False
    rows_vary = False

    def names(self, task: Task) -> tuple[str, ...]:
        """Returns the names of the output tensors."""
        raise NotImplementedError

    def axes(self, spec: ModelSpec) -> dict[str, dict[int, str]]:
        """Returns the symbolic axes of the output tensors, by tensor name."""
        return {} if spec.input.batch else {name: {0: "batch"} for name in spec.output.names}

    def sizes(self, spec: ModelSpec) -> dict[int, int]:  # noqa: ARG002 - most formats need no help
        """Returns sizes of the first output that the tracer loses, by axis."""
        return {}

    def shapes(self, spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:  # noqa: ARG002 - a module's are unknown
        """Returns the shapes of the output tensors, by name; None is any size."""
        return {}

    def read(self, outputs: Outputs, spec: ModelSpec, index: int) -> Rows:  # noqa: ARG002 - nothing to read
        """Returns boxes (N, 4), scores (N,) and the joints or classes of image ``index``."""
        what = find_task(spec.task).result
        raise RunnerError(
            f"reading {what}: {spec.model} was exported with postprocessing off, so its outputs are undecided"
            " candidates. Export it with postprocessing=True."
        )

    def count(self, outputs: Outputs) -> int | None:  # noqa: ARG002 - unknown without selection
        """Returns the number of predictions in the outputs of a batch; None when they are not final."""
        return None


class Batch(Format):
    """Padded arrays per image: num_predictions (B, 1), pred_boxes (B, N, 4), pred_scores (B, N) and the task's own.

    Rows are sorted by score. Rows at or past the count are zero (classes -1).
    """

    name = "batch"
    finished = True

    def names(self, task: Task) -> tuple[str, ...]:
        return ("num_predictions", "pred_boxes", "pred_scores", task.extra_output)

    def shapes(self, spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:
        task, batch, limit = find_task(spec.task), spec.input.batch, spec.output.max_predictions_per_image
        joints = (spec.skeleton.num_joints, task.point_values) if task.point_values else ()
        known: dict[str, tuple[int | None, ...]] = {
            "num_predictions": (batch, 1),
            "pred_boxes": (batch, limit, 4),
            "pred_scores": (batch, limit),
            task.extra_output: (batch, limit, *joints),
        }
        return {name: known[name] for name in self.names(task) if name in known}

    def read(self, outputs: Outputs, spec: ModelSpec, index: int) -> Rows:
        count = int(outputs["num_predictions"][index, 0])
        _, boxes, scores, extra = (outputs[name] for name in self.names(find_task(spec.task)))
        return boxes[index, :count], scores[index, :count], extra[index, :count]

    def count(self, outputs: Outputs) -> int:
        return int(outputs["num_predictions"].sum())


class Flat(Format):
    """One tensor flat_predictions (M, 6 + 3J), of detections (M, 7): image index, box, score, joints or class.

    Rows are ordered by image, then by score.
    """

    name = "flat"
    finished = True
    rows_vary = True

    def names(self, task: Task) -> tuple[str, ...]:  # noqa: ARG002 - the same for every task
        return ("flat_predictions",)

    def axes(self, spec: ModelSpec) -> dict[str, dict[int, str]]:
        return {name: {0: "predictions"} for name in spec.output.names}

    def sizes(self, spec: ModelSpec) -> dict[int, int]:
        return {1: 6 + find_task(spec.task).extra_width(spec.skeleton.num_joints)}

    def shapes(self, spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:
        return {name: (None, self.sizes(spec)[1]) for name in self.names(find_task(spec.task))}

    def read(self, outputs: Outputs, spec: ModelSpec, index: int) -> Rows:  # noqa: ARG002 - the row says it all
        flat = outputs["flat_predictions"]
        rows = flat[flat[:, 0] == index]
        return rows[:, 1:5], rows[:, 5], rows[:, 6:]

    def count(self, outputs: Outputs) -> int:
        return len(outputs["flat_predictions"])


RCNN_OUTPUTS = ("boxes", "labels", "scores", "keypoints", "keypoints_scores")  # torchvision's names


class RCNN(Format):
    """torchvision's tensors of a Keypoint R-CNN, for one image of any size."""

    name = "rcnn"
    finished = True

    def names(self, task: Task) -> tuple[str, ...]:  # noqa: ARG002 - poses only
        return RCNN_OUTPUTS

    def axes(self, spec: ModelSpec) -> dict[str, dict[int, str]]:
        return {name: {0: "predictions"} for name in spec.output.names}

    def shapes(self, spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:
        joints = spec.skeleton.num_joints
        return dict(zip(RCNN_OUTPUTS, ((None, 4), (None,), (None,), (None, joints, 3), (None, joints)), strict=True))

    def read(self, outputs: Outputs, spec: ModelSpec, index: int) -> Rows:  # noqa: ARG002 - one image
        confidence = 1.0 / (1.0 + np.exp(-outputs["keypoints_scores"][..., None]))  # (N, J, 1) from logits
        joints = np.concatenate([outputs["keypoints"][..., :2], confidence], axis=2)
        return outputs["boxes"], outputs["scores"], joints

    def count(self, outputs: Outputs) -> int:
        return len(outputs["keypoints_scores"])


class Raw(Format):
    """The decoded candidates of every anchor, without selection: boxes, scores, and joints of a pose model."""

    name = "raw"

    def names(self, task: Task) -> tuple[str, ...]:
        return ("pred_boxes", "pred_scores", *((task.extra_output,) if task.extra_in_raw else ()))

    def shapes(self, spec: ModelSpec) -> dict[str, tuple[int | None, ...]]:
        task, batch = find_task(spec.task), spec.input.batch
        shapes = ((batch, None, 4), (batch, None, None), (batch, None, spec.skeleton.num_joints, 3))
        return dict(zip(self.names(task), shapes, strict=False))


class Custom(Format):
    """The tensors of a caller's own module, which ends the file."""

    name = "custom"

    def names(self, task: Task) -> tuple[str, ...]:
        raise RunnerError(
            f"naming outputs: a {task.name} file that ends in a module of its own names its outputs itself."
        )


FORMATS: dict[str, Format] = {layout.name: layout for layout in (Batch(), Flat(), RCNN(), Raw(), Custom())}


def find_format(spec: ModelSpec) -> Format:
    """Returns the output format of a file. Raises RunnerError for one this version does not know."""
    if spec.output.format not in FORMATS:
        raise RunnerError(
            f"opening {spec.model}: got the output format {spec.output.format!r}, expected one of"
            f" {', '.join(FORMATS)}. Upgrade trt-pose, or export the model again."
        )
    return FORMATS[spec.output.format]


def read_rows(outputs: Outputs, spec: ModelSpec, index: int, placed: Letterbox | None) -> tuple[Floats, Floats, Any]:
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
    boxes, scores, extra = find_format(spec).read(outputs, spec, index)
    if not all(np.isfinite(part).all() for part in (boxes, scores, extra)):
        warnings.warn(
            f"{spec.model} gives coordinates that are not finite numbers: the file is damaged, or its precision too"
            " low. Compare it with the one it was made from.",
            stacklevel=2,
        )
    boxes = boxes.astype(np.float32)
    if placed is not None:
        boxes = undo_letterbox(boxes.reshape(-1, 2, 2), placed).reshape(-1, 4)
    return boxes, scores.astype(np.float32), extra


def count_predictions(outputs: Outputs) -> int | None:
    """Returns the number of predictions in the outputs of a batch of any format; None when they are not final."""
    for layout in FORMATS.values():
        if layout.finished and any(set(layout.names(task)) <= set(outputs) for task in TASKS.values()):
            return layout.count(outputs)
    return None
