"""Base classes of poses and detections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..documents import to_json
from ..formats import Floats
from ..images import draw
from ..images.pixels import Image
from ..optional import require
from ..spec import Letterbox, ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self


Index = int | np.integer[Any] | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one image, best first; base of ``Poses`` and ``Detections``.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
    """

    boxes: Floats
    scores: Floats

    # super-gradients' name for the same array, so that code written for super-gradients keeps working.
    @property
    def bboxes_xyxy(self) -> Floats:
        return self.boxes

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Self:
        """Selects rows by int, slice, mask or indices; returns an object of the same class."""
        rows: Any = index
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"{type(self).__name__.lower().removesuffix('s')} {index} of {len(self)}")
            rows = [int(index)]
        return self._take(rows)

    def _take(self, rows: Any) -> Self:
        raise NotImplementedError

    @classmethod
    def from_outputs(
        cls,
        outputs: Mapping[str, npt.NDArray[Any]],
        spec: ModelSpec,
        index: int = 0,
        placed: Letterbox | None = None,
        confidence: float = 0.0,
    ) -> Self:
        """Reads the predictions of one image from the outputs of a batch; see ``Poses.from_outputs``."""
        raise NotImplementedError

    @classmethod
    def from_rows(cls, rows: Floats, spec: ModelSpec) -> Self:
        """Makes predictions from rows (N, 5 + the extra width of the task), px of the source image."""
        raise NotImplementedError

    @property
    def kinds(self) -> npt.NDArray[np.int64] | None:
        """Class of each prediction, (N,); None where the model has one class."""
        raise NotImplementedError

    @property
    def points(self) -> Floats:
        """Points of each prediction whose distances comparisons measure, (N, P, 2) px."""
        raise NotImplementedError

    @property
    def point_scores(self) -> Floats:
        """Confidences of those points, (N, P), or (N, 0) where they have none."""
        raise NotImplementedError

    def similarity(self, other: Self) -> npt.NDArray[np.float64]:
        """Similarity of each prediction to the one in the same row of ``other``, (N,) in 0..1: OKS or IoU."""
        raise NotImplementedError

    def result(self, image: Image, source: str) -> ImageResult:
        """Joins the predictions with their image."""
        raise NotImplementedError

    def to_coco_rows(self, image_id: int, categories: Mapping[int, int]) -> list[dict[str, Any]]:
        """Returns rows of a COCO results file.

        Args:
            image_id: id of the image in the annotations.
            categories: category id of the annotations to class of the model; other classes are left out.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Self]:
        return (self[index] for index in range(len(self)))

    def filter(self, confidence: float) -> Self:
        """Returns the predictions with a score above ``confidence``."""
        return self[self.scores > confidence]

    def to_dicts(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def to_json(self, indent: int | None = None) -> str:
        return to_json(self.to_dicts(), indent)


def name_corners(box: Floats) -> dict[str, float]:
    """Returns a box (4,) xyxy as a dict ``{x1, y1, x2, y2}``."""
    return dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))


def coco_box(box: Floats) -> list[float]:
    """Converts a box (4,) xyxy to COCO's x, y, width, height, px rounded to three decimals."""
    return [round(float(value), 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def import_supervision() -> Any:
    """Imports and returns supervision. Raises MissingDependencyError when it is not installed."""
    return require("supervision", "converting to supervision")


@dataclass(frozen=True, eq=False)
class ImageResult:
    """One image and its predictions; base of the results that ``predict`` returns.

    Attributes:
        image: (H, W, 3) uint8, RGB, as decoded.
    """

    image: Image

    @property
    def prediction(self) -> Predictions:
        """super-gradients' name for the poses or detections."""
        raise NotImplementedError

    def draw(self) -> Image:
        """Returns a copy of the image, (H, W, 3) uint8 RGB, with the predictions drawn on it."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.prediction)

    def save(self, path: str | Path) -> Path:
        """Writes the drawn image in the format given by the suffix. Raises SourceError when it cannot be written."""
        return draw.save(self.draw(), path)

    def show(self) -> None:
        """Opens the drawn image in the desktop's image viewer."""
        draw.show(self.draw())

    def to_json(self, indent: int | None = None) -> str:
        return to_json(self.to_dict(), indent)
