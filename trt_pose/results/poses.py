"""The poses of one image, and an image together with its poses."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..formats import Floats, read_rows
from ..images import draw
from ..images.pixels import Image, undo_letterbox
from ..skeleton import Skeleton
from ..spec import Letterbox, ModelSpec
from ..tasks import POSE
from .pairing import object_keypoint_similarity
from .predictions import ImageResult, Index, Predictions, coco_box, import_supervision, name_corners

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Poses(Predictions):
    """The people found in one image, best first.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
        joints: (N, J, 3) float32 x, y (px of the source image), confidence in 0..1.
        skeleton: description of the J joints.
        classes: (N,) int64 class of each person if the model predicts one (Keypoint R-CNN), else None.
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
        """Reads the poses of one image from the outputs of a batch.

        Args:
            outputs: the arrays a runner returned, by output name: ``num_predictions``, ``pred_boxes``,
                ``pred_scores``, ``pred_joints`` (batch format), ``flat_predictions`` (flat format), or torchvision's
                names (Keypoint R-CNN), where the sigmoid of ``keypoints_scores`` is the joint confidence.
            spec: description of the model file.
            index: position of the image in the batch.
            placed: how the image was letterboxed; None leaves coordinates in px of the network input.
            confidence: keep only scores above it; the file has already applied its own threshold.

        Raises:
            RunnerError: the file holds no final predictions (exported with ``postprocessing=False``).
        """
        boxes, scores, rest = read_rows(outputs, spec, index, placed)
        joints = rest.reshape(len(boxes), spec.skeleton.num_joints, 3).astype(np.float32)
        if placed is not None:
            joints[:, :, :2] = undo_letterbox(joints[:, :, :2], placed)
        classes = outputs["labels"].astype(np.int64) if spec.output.format == "rcnn" else None
        poses = cls(boxes, scores, joints, spec.skeleton, classes)
        return poses.filter(confidence) if confidence > 0 else poses

    @classmethod
    def from_rows(cls, rows: Floats, spec: ModelSpec) -> Poses:
        """Makes poses from rows (N, 5 + 3J), px of the source image: box, score, x, y and confidence of each joint."""
        skeleton = spec.skeleton
        return cls(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(len(rows), skeleton.num_joints, 3), skeleton)

    @property
    def kinds(self) -> npt.NDArray[np.int64] | None:
        return self.classes

    @property
    def points(self) -> Floats:
        return self.joints[..., :2]

    @property
    def point_scores(self) -> Floats:
        return self.joints[..., 2]

    def similarity(self, other: Poses) -> npt.NDArray[np.float64]:
        """OKS of each person to the person in the same row of ``other``, (N,) in 0..1; see ``pairing``."""
        return object_keypoint_similarity(self.boxes, self.points, other.points, self.skeleton.sigmas)

    def result(self, image: Image, source: str) -> PoseResult:
        return PoseResult(image, self, source)

    def to_coco_rows(self, image_id: int, categories: Mapping[int, int]) -> list[dict[str, Any]]:
        return self.to_coco(image_id, next(iter(categories)))

    # super-gradients' names.
    @property
    def poses(self) -> Floats:
        return self.joints

    @property
    def edge_links(self) -> tuple[tuple[int, int], ...]:
        return self.skeleton.edges

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns one dict per person: score, box {x1, y1, x2, y2}, joints {name: {x, y, confidence}}.

        ``id`` and ``class`` come first, where there are any.
        """
        kinds = [{}] * len(self) if self.classes is None else [{"class": int(kind)} for kind in self.classes]
        return [
            {
                **self._id_of(row),
                **kind,
                "score": float(score),
                "box": name_corners(box),
                "joints": {
                    name: {"x": float(x), "y": float(y), "confidence": float(confidence)}
                    for name, (x, y, confidence) in zip(self.skeleton.names, joints, strict=True)
                },
            }
            for row, (kind, box, score, joints) in enumerate(
                zip(kinds, self.boxes, self.scores, self.joints, strict=True)
            )
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns one flat dict per person: score, x1, y1, x2, y2, then x, y and confidence of each joint."""
        return [
            {
                **self._id_of(row),
                "score": float(score),
                **name_corners(box),
                **{
                    f"{name}_{part}": float(value)
                    for name, joint in zip(self.skeleton.names, joints, strict=True)
                    for part, value in zip(("x", "y", "confidence"), joint, strict=True)
                },
            }
            for row, (box, score, joints) in enumerate(zip(self.boxes, self.scores, self.joints, strict=True))
        ]

    def count_text(self) -> str:
        return POSE.count(len(self))

    @property
    def xy(self) -> Floats:
        """Positions of the joints, (N, J, 2) px."""
        return self.joints[:, :, :2]

    @property
    def confidence(self) -> Floats:
        """Confidences of the joints, (N, J)."""
        return self.joints[:, :, 2]

    @overload
    def __getitem__(self, index: str) -> Floats: ...

    @overload
    def __getitem__(self, index: Index) -> Poses: ...

    def __getitem__(self, index: Index | str) -> Poses | Floats:
        """Selects people by int, slice, mask or indices; a joint of all people, (N, 3), by its name.

        Raises:
            UsageError: there is no joint of that name.
        """
        if not isinstance(index, str):
            return super().__getitem__(index)
        if index not in self.skeleton.names:
            near = difflib.get_close_matches(index, self.skeleton.names, 1)
            meant = f" Did you mean {near[0]!r}?" if near else f" There are {', '.join(self.skeleton.names)}."
            raise UsageError(f"selecting a joint: there is no {index!r}.{meant}")
        return self.joints[:, self.skeleton.names.index(index)]

    def to_coco(self, image_id: int = 1, category_id: int = 1) -> list[dict[str, Any]]:
        """Returns rows of a COCO keypoint results file (https://cocodataset.org/#format-results)."""
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
        """Converts to ``supervision.KeyPoints``, with joint and person confidences, and ids as ``data["tracker_id"]``.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        found: supervision.KeyPoints = import_supervision().KeyPoints(
            xy=self.joints[:, :, :2].copy(),
            class_id=np.zeros(len(self), int) if self.classes is None else self.classes.copy(),
            keypoint_confidence=self.joints[:, :, 2].copy(),
            detection_confidence=self.scores.copy(),
            data={} if self.ids is None else {"tracker_id": self.ids.copy()},
        )
        return found

    def draw(self, image: Image, *, joint_confidence: float = 0.3, boxes: bool = True) -> Image:
        """Draws the poses on a copy of ``image``, (H, W, 3) uint8 RGB, without joints below ``joint_confidence``."""
        return draw.draw_poses(
            image,
            self.boxes,
            self.scores,
            self.joints,
            self.skeleton,
            joint_confidence=joint_confidence,
            show_boxes=boxes,
            ids=self.ids,
        )


@dataclass(frozen=True, eq=False, repr=False)
class PoseResult(ImageResult):
    """One image and its people, as ``predict`` returns them for a pose model.

    Attributes:
        image: (H, W, 3) uint8, RGB, as decoded.
        poses: the people, in px of ``image``.
        source: origin of the image: a path, a URL, ``video.mp4#12``, ``array 3``.
    """

    poses: Poses
    source: str

    @property
    def prediction(self) -> Poses:
        """super-gradients' name for :attr:`poses`."""
        return self.poses

    def with_prediction(self, prediction: Poses) -> PoseResult:
        return replace(self, poses=prediction)

    def draw(self, *, joint_confidence: float = 0.3, boxes: bool = True) -> Image:
        """Returns a copy of the image, (H, W, 3) uint8 RGB, with the poses drawn on it."""
        return self.poses.draw(self.image, joint_confidence=joint_confidence, boxes=boxes)

    def to_dict(self) -> dict[str, Any]:
        return {**self.describe(), "poses": self.poses.to_dicts()}

    @property
    def origin(self) -> str:
        return self.source

    def to_coco(self, image_id: int = 1, category_id: int = 1) -> list[dict[str, Any]]:
        """Returns rows of a COCO keypoint results file; see :meth:`Poses.to_coco`."""
        return self.poses.to_coco(image_id, category_id)
