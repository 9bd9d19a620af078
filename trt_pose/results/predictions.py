"""Base classes of poses and detections."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..documents import to_json
from ..formats import Floats
from ..images import draw
from ..images.pixels import Image
from ..images.reading import Clip
from ..optional import require
from ..spec import Letterbox, ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self


_SCORES_SHOWN = 8  # in the text of a result

Index = int | np.integer[Any] | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one image, best first; base of ``Poses`` and ``Detections``.

    Attributes:
        boxes: (N, 4) float32 xyxy, px of the source image, not clipped to it.
        scores: (N,) float32 in 0..1, descending.
        ids: (N,) int64, the track of each prediction in its video, -1 for none; None without tracking.
    """

    boxes: Floats
    scores: Floats
    ids: npt.NDArray[np.int64] | None = field(default=None, kw_only=True)

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
        """Selects rows of every array that has one for each prediction."""
        names = (item.name for item in fields(self))
        arrays = {name: value[rows] for name in names if isinstance(value := getattr(self, name), np.ndarray)}
        return replace(self, **arrays)

    def _id_of(self, row: int) -> dict[str, int | None]:
        """Returns the track of a prediction as part of a record; nothing without tracking."""
        if self.ids is None:
            return {}
        track = int(self.ids[row])
        return {"id": None if track < 0 else track}

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

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns one flat dict per prediction, for tables."""
        raise NotImplementedError

    def count_text(self) -> str:
        """Returns the number of predictions in words, such as ``2 people``."""
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
        index: number of the frame in its video, from 0; None for images.
        time_s: its time from the first frame, s; None when unknown.
        clip: the video it belongs to; None for images.
        speed: time of each step, ms per image: decode, letterbox, run and read; on a GPU decode, submit and wait.
    """

    image: Image
    index: int | None = field(default=None, kw_only=True)
    time_s: float | None = field(default=None, kw_only=True)
    clip: Clip | None = field(default=None, kw_only=True)
    speed: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    @property
    def prediction(self) -> Predictions:
        """super-gradients' name for the poses or detections."""
        raise NotImplementedError

    def with_prediction(self, prediction: Any) -> Self:
        """Returns the same result with other poses or detections."""
        raise NotImplementedError

    def draw(self) -> Image:
        """Returns a copy of the image, (H, W, 3) uint8 RGB, with the predictions drawn on it."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Returns what :meth:`to_dict` says of the image; number and time only for frames of videos."""
        height, width = self.image.shape[:2]
        frame = {} if self.index is None else {"index": self.index, "time_s": self.time_s}
        return {"source": self.origin, **frame, "width": width, "height": height}

    @property
    def origin(self) -> str:
        """The source of the image, as the results of both tasks have it."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.prediction)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        scores = ", ".join(f"{score:.2f}" for score in self.prediction.scores[:_SCORES_SHOWN])
        more = ", …" if len(self) > _SCORES_SHOWN else ""
        found = self.prediction.count_text()
        return f"{type(self).__name__}({self.origin!r}, {width} x {height}, {found}{': ' * bool(scores)}{scores}{more})"

    def _repr_png_(self) -> bytes:
        """Returns the drawn image as PNG, which Jupyter shows."""
        return draw.encode(self.draw(), ".png")

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns one flat dict per prediction, for tables: source, number, score, box, and joints or class."""
        frame = {"source": self.origin, "index": self.index, "time_s": self.time_s}
        return [{**frame, "number": number, **row} for number, row in enumerate(self.prediction.to_rows())]

    def to_csv(self) -> str:
        """Returns the rows of :meth:`to_rows` as CSV, with a header."""
        text = io.StringIO()
        rows = self.to_rows()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return text.getvalue()

    def to_df(self) -> Any:
        """Returns the rows of :meth:`to_rows` as a ``pandas.DataFrame``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return require("pandas", "making a table").DataFrame(self.to_rows())

    def save(self, path: str | Path) -> Path:
        """Writes the drawn image in the format given by the suffix. Raises SourceError when it cannot be written."""
        return draw.save(self.draw(), path)

    def show(self) -> None:
        """Opens the drawn image in the desktop's image viewer."""
        draw.show(self.draw())

    def to_json(self, indent: int | None = None) -> str:
        return to_json(self.to_dict(), indent)
