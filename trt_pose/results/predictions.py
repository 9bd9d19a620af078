"""What poses and detections have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..formats import Floats
from ..images import draw
from ..images.pixels import Image
from ..optional import require

if TYPE_CHECKING:
    from typing_extensions import Self


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


def name_corners(box: Floats) -> dict[str, float]:
    """A box (4,) xyxy as ``{x1, y1, x2, y2}``."""
    return dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))


def coco_box(box: Floats) -> list[float]:
    """A box (4,) xyxy as COCO writes it: x, y, width, height, px to three digits."""
    return [round(float(value), 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def import_supervision() -> Any:
    """The package; raises MissingDependencyError where it is not installed."""
    return require("supervision", "converting to supervision")


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
