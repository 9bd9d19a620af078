"""Results: the poses of one image, and an image together with its poses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import draw
from .errors import MissingDependencyError, RunnerError, SourceError
from .files import write_atomically
from .image import Image, undo_letterbox
from .skeleton import Skeleton
from .types import Letterbox, ModelSpec

if TYPE_CHECKING:
    import supervision
    from typing_extensions import Self

Floats = npt.NDArray[np.float32]
Index = int | np.integer[Any] | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in one image, best first: what people and objects have in common.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
    """

    boxes: Floats
    scores: Floats

    # The reference release's name for the same array, so that code written for it keeps working.
    @property
    def bboxes_xyxy(self) -> Floats:
        return self.boxes

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Self:
        """One (int) or several (slice, mask, indices), as the same kind."""
        rows: Any = index
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"{type(self).__name__.lower().removesuffix('s')} {index} of {len(self)}")
            rows = [int(index)]
        return self._take(rows)

    def _take(self, rows: Any) -> Self:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Self]:
        return (self[index] for index in range(len(self)))

    def filter(self, confidence: float) -> Self:
        """Those with a score above ``confidence``."""
        return self[self.scores > confidence]

    def to_dicts(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dicts(), indent=indent)


def read_rows(
    outputs: Mapping[str, npt.NDArray[Any]], spec: ModelSpec, index: int, placed: Letterbox | None
) -> tuple[Floats, Floats, npt.NDArray[Any]]:
    """Image ``index`` of what a runner returned for a batch: boxes (N, 4), scores (N,), and the rest of each row.

    The rest are the joints or the class, as the file's format holds them; boxes are px of the source image where
    ``placed`` says how it was letterboxed.

    Raises:
        RunnerError: the file holds no finished predictions (exported with ``postprocessing=False``).
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


def name_corners(box: Floats) -> dict[str, float]:
    """A box (4,) xyxy as ``{x1, y1, x2, y2}``."""
    return dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))


def coco_box(box: Floats) -> list[float]:
    """A box (4,) xyxy as COCO writes it: x, y, width, height, px to three digits."""
    return [round(float(value), 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def import_supervision() -> Any:
    """The package; raises MissingDependencyError where it is not installed."""
    try:
        import supervision
    except ImportError as error:
        raise MissingDependencyError(
            "converting to supervision: the package is not installed. Run: pip install 'trt-pose[supervision]'"
        ) from error
    return supervision


@dataclass(frozen=True, eq=False)
class Poses(Findings):
    """The people found in one image, best first.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
        joints: (N, J, 3) float32 x, y (px of the source image), confidence in 0..1.
        skeleton: what the J joints are.
        classes: (N,) int64 where the model tells classes of bodies apart (Keypoint R-CNN), else None.
    """

    joints: Floats
    skeleton: Skeleton
    classes: npt.NDArray[np.int64] | None = None

    @classmethod
    def from_outputs(
        cls,
        outputs: Mapping[str, npt.NDArray[Any]],
        spec: ModelSpec,
        index: int = 0,
        placed: Letterbox | None = None,
        confidence: float = 0.0,
    ) -> Poses:
        """Takes image ``index`` out of what a runner returned for a batch.

        Args:
            outputs: the named arrays of the file: ``num_predictions``, ``pred_boxes``, ``pred_scores``,
                ``pred_joints`` (batch format), ``flat_predictions``, or torchvision's of a Keypoint R-CNN, whose
                joint confidences are the sigmoids of ``keypoints_scores``.
            spec: the description of the file.
            index: position of the image in the batch.
            placed: how the image was letterboxed; None leaves px of the network input.
            confidence: keep only scores above this (the file has applied its own threshold already).

        Raises:
            RunnerError: the file holds no finished predictions (exported with ``postprocessing=False``).
        """
        boxes, scores, rest = read_rows(outputs, spec, index, placed)
        joints = rest.reshape(len(boxes), spec.skeleton.num_joints, 3).astype(np.float32)
        if placed is not None:
            joints[:, :, :2] = undo_letterbox(joints[:, :, :2], placed)
        classes = outputs["labels"].astype(np.int64) if spec.output.format == "rcnn" else None
        poses = cls(boxes, scores, joints, spec.skeleton, classes)
        return poses.filter(confidence) if confidence > 0 else poses

    @classmethod
    def from_rows(cls, rows: Floats, skeleton: Skeleton) -> Poses:
        """Of rows (N, 5 + 3J), px of the source image: box, score, then x, y, confidence of each joint."""
        return cls(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(len(rows), skeleton.num_joints, 3), skeleton)

    # The reference release's names.
    @property
    def poses(self) -> Floats:
        return self.joints

    @property
    def edge_links(self) -> tuple[tuple[int, int], ...]:
        return self.skeleton.edges

    def _take(self, rows: Any) -> Poses:
        classes = None if self.classes is None else self.classes[rows]
        return Poses(self.boxes[rows], self.scores[rows], self.joints[rows], self.skeleton, classes)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dict per person: score, box {x1, y1, x2, y2}, joints {name: {x, y, confidence}}, class if any."""
        kinds = [{}] * len(self) if self.classes is None else [{"class": int(kind)} for kind in self.classes]
        return [
            {
                **kind,
                "score": float(score),
                "box": name_corners(box),
                "joints": {
                    name: {"x": float(x), "y": float(y), "confidence": float(confidence)}
                    for name, (x, y, confidence) in zip(self.skeleton.names, joints, strict=True)
                },
            }
            for kind, box, score, joints in zip(kinds, self.boxes, self.scores, self.joints, strict=True)
        ]

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """Rows of a COCO keypoint results file (https://cocodataset.org/#format-results)."""
        return [
            {
                "image_id": image_id,
                "category_id": category_id,
                "keypoints": [round(float(value), 3) for value in joints.reshape(-1)],
                "score": float(score),
                "bbox": coco_box(box),
            }
            for box, score, joints in zip(self.boxes, self.scores, self.joints, strict=True)
        ]

    def to_supervision(self) -> supervision.KeyPoints:
        """``supervision.KeyPoints`` with the joint and person confidences; needs ``pip install supervision``."""
        found: supervision.KeyPoints = import_supervision().KeyPoints(
            xy=self.joints[:, :, :2].copy(),
            class_id=np.zeros(len(self), int) if self.classes is None else self.classes.copy(),
            keypoint_confidence=self.joints[:, :, 2].copy(),
            detection_confidence=self.scores.copy(),
        )
        return found

    def draw(self, image: Image, *, joint_confidence: float = 0.3, boxes: bool = True) -> Image:
        """A copy of ``image`` (H, W, 3) uint8 RGB with the poses on it; joints below ``joint_confidence`` left out."""
        return draw.draw_poses(
            image,
            self.boxes,
            self.scores,
            self.joints,
            self.skeleton,
            joint_confidence=joint_confidence,
            show_boxes=boxes,
        )


@dataclass(frozen=True, eq=False)
class ImageResult:
    """One image and what was found in it: what ``predict`` returns.

    Attributes:
        image: (H, W, 3) uint8, RGB, as decoded.
    """

    image: Image

    @property
    def prediction(self) -> Findings:
        """The reference release's name for what was found."""
        raise NotImplementedError

    def draw(self) -> Image:
        """(H, W, 3) uint8 RGB: the image with what was found in it."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.prediction)

    def save(self, path: str | Path) -> Path:
        """Writes the drawn image; the suffix decides the format. Raises SourceError when it cannot be written."""
        return draw.save(self.draw(), path)

    def show(self) -> None:
        """Opens the drawn image in the desktop's image viewer."""
        draw.show(self.draw())

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent)


@dataclass(frozen=True, eq=False)
class PoseResult(ImageResult):
    """One image and the people in it: what ``predict`` returns.

    Attributes:
        image: (H, W, 3) uint8, RGB, as decoded.
        poses: the people, px of ``image``.
        source: where the image came from: a path, URL, ``video.mp4#12``, ``array 3``.
    """

    poses: Poses
    source: str

    @property
    def prediction(self) -> Poses:
        """The reference release's name for :attr:`poses`."""
        return self.poses

    def draw(self, *, joint_confidence: float = 0.3, boxes: bool = True) -> Image:
        """(H, W, 3) uint8 RGB: the image with its poses."""
        return self.poses.draw(self.image, joint_confidence=joint_confidence, boxes=boxes)

    def to_dict(self) -> dict[str, Any]:
        height, width = self.image.shape[:2]
        return {"source": self.source, "width": width, "height": height, "poses": self.poses.to_dicts()}


def write_json(results: list[dict[str, Any]], path: str | Path) -> None:
    """Writes result dicts to one JSON file, whole or not at all."""
    text = json.dumps(results, indent=2)
    write_atomically(path, lambda target: target.write_text(text), SourceError)
