"""Results of detection models: the objects of one image, and an image together with its objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..formats import Floats, read_rows
from ..images import draw
from ..images.pixels import Image
from ..spec import Letterbox, ModelSpec
from ..tasks import DETECTION
from .pairing import box_iou
from .poses import PoseResult
from .predictions import ImageResult, Predictions, coco_box, import_supervision, name_corners

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Detections(Predictions):
    """The objects found in one image, best first.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
        classes: (N,) int64, indices into ``class_names``. One object may be listed under several classes.
        class_names: names of the classes.
    """

    classes: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    @classmethod
    def from_outputs(
        cls,
        outputs: Mapping[str, npt.NDArray[Any]],
        spec: ModelSpec,
        index: int = 0,
        placed: Letterbox | None = None,
        confidence: float = 0.0,
    ) -> Detections:
        """Reads the detections of one image from the outputs of a batch; see ``Poses.from_outputs``.

        Raises:
            RunnerError: the file holds no final predictions (exported with ``postprocessing=False``).
        """
        boxes, scores, rest = read_rows(outputs, spec, index, placed)
        found = cls(boxes, scores, rest.reshape(-1).astype(np.int64), spec.class_names)
        return found.filter(confidence) if confidence > 0 else found

    @classmethod
    def from_rows(cls, rows: Floats, spec: ModelSpec) -> Detections:
        """Makes detections from rows (N, 6), px of the source image: box, score, class."""
        return cls(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), spec.class_names)

    @property
    def kinds(self) -> npt.NDArray[np.int64]:
        return self.classes

    @property
    def points(self) -> Floats:
        return self.boxes.reshape(-1, 2, 2)

    @property
    def point_scores(self) -> Floats:
        return np.zeros((len(self), 0), np.float32)

    def similarity(self, other: Detections) -> npt.NDArray[np.float64]:
        """IoU of each object with the object in the same row of ``other``, (N,) in 0..1."""
        return box_iou(self.boxes, other.boxes).diagonal()

    def result(self, image: Image, source: str) -> DetectionResult:
        return DetectionResult(image, self, source)

    def to_coco_rows(self, image_id: int, categories: Mapping[int, int]) -> list[dict[str, Any]]:
        category_of = {kind: category for category, kind in categories.items()}
        known = np.isin(self.classes, list(category_of))  # classes without annotations are not evaluated
        ids = tuple(category_of.get(kind, 0) for kind in range(len(self.class_names)))
        return self[known].to_coco(image_id, ids)

    # super-gradients' names.
    @property
    def confidence(self) -> Floats:
        return self.scores

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self.classes

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.class_names[kind] for kind in self.classes)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns one dict per object: id if it is tracked, class, name, score, box {x1, y1, x2, y2}."""
        return [
            {
                **self._id_of(row),
                "class": int(kind),
                "name": name,
                "score": float(score),
                "box": name_corners(box),
            }
            for row, (kind, name, score, box) in enumerate(
                zip(self.classes, self.names, self.scores, self.boxes, strict=True)
            )
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns one flat dict per object: class, name, score, x1, y1, x2, y2."""
        return [
            {**self._id_of(row), "class": int(kind), "name": name, "score": float(score), **name_corners(box)}
            for row, (kind, name, score, box) in enumerate(
                zip(self.classes, self.names, self.scores, self.boxes, strict=True)
            )
        ]

    def count_text(self) -> str:
        return DETECTION.count(len(self))

    def to_coco(self, image_id: int = 1, category_ids: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
        """Returns rows of a COCO detection results file; ``category_ids`` has one id per class, 1, 2, 3 … when None."""
        ids = category_ids or tuple(range(1, len(self.class_names) + 1))
        return [
            {
                "image_id": image_id,
                "category_id": ids[kind],
                "score": float(score),
                "bbox": coco_box(box),
            }
            for box, score, kind in zip(self.boxes, self.scores, self.classes, strict=True)
        ]

    def to_supervision(self) -> supervision.Detections:
        """Converts to ``supervision.Detections``. Raises MissingDependencyError when supervision is not installed."""
        found: supervision.Detections = import_supervision().Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            tracker_id=None if self.ids is None else self.ids.copy(),
            data={"class_name": np.array(self.names)},
        )
        return found

    def draw(self, image: Image) -> Image:
        """Draws boxes, class names and scores on a copy of ``image``, (H, W, 3) uint8 RGB."""
        return draw.draw_boxes(image, self.boxes, self.scores, self.classes, self.names, self.ids)


@dataclass(frozen=True, eq=False, repr=False)
class DetectionResult(ImageResult):
    """One image and its objects, as ``predict`` returns them for a detection model.

    Attributes:
        image: (H, W, 3) uint8, RGB, as decoded.
        detections: the objects, in px of ``image``.
        source: origin of the image: a path, a URL, ``video.mp4#12``, ``array 3``.
    """

    detections: Detections
    source: str

    @property
    def prediction(self) -> Detections:
        """super-gradients' name for :attr:`detections`."""
        return self.detections

    def with_prediction(self, prediction: Detections) -> DetectionResult:
        return replace(self, detections=prediction)

    def draw(self) -> Image:
        """Returns a copy of the image, (H, W, 3) uint8 RGB, with the objects drawn on it."""
        return self.detections.draw(self.image)

    def to_dict(self) -> dict[str, Any]:
        return {**self.describe(), "detections": self.detections.to_dicts()}

    @property
    def origin(self) -> str:
        return self.source

    def to_coco(self, image_id: int = 1, category_ids: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
        """Returns rows of a COCO detection results file; see :meth:`Detections.to_coco`."""
        return self.detections.to_coco(image_id, category_ids)


Result = PoseResult | DetectionResult
