"""The differences between what two model files find: of one image, of a tensor, of all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..tasks import TASKS


@dataclass(frozen=True)
class ImageComparison:
    """The comparison of one image.

    Attributes:
        source: path or name of the image.
        first: number of people or objects found by the first file.
        second: number of people or objects found by the second file.
        matched: number of pairs with an IoU of at least 0.5; objects are paired within a class only.
        px_mean: mean distance between the joints of matched people or the corners of matched boxes, px of the image.
        px_max: largest such distance, px.
        similarity: mean object keypoint similarity (OKS) of matched people, with the first file's joints as ground
            truth; mean IoU of matched objects.
        score: largest score difference of matched people or objects.
    """

    source: str
    first: int
    second: int
    matched: int
    px_mean: float
    px_max: float
    similarity: float
    score: float

    @property
    def missed(self) -> int:
        """Number of people or objects that only the first file finds."""
        return self.first - self.matched

    @property
    def extra(self) -> int:
        """Number of people or objects that only the second file finds."""
        return self.second - self.matched

    @property
    def similarity_sum(self) -> float:
        return self.similarity * self.matched


@dataclass(frozen=True)
class TensorGap:
    """Differences of one output tensor of two files, as Polygraphy measures them.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        max_rel: largest difference relative to the second file's value.
    """

    max_abs: float
    mean_abs: float
    max_rel: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of all images.

    Attributes:
        first: path of the first file.
        second: path of the second file.
        images: the comparison of each image.
        noise_db: signal-to-noise ratio in dB of each tensor that two ONNX files share; empty unless requested.
        outputs: differences of each output of both files, row by row; empty unless requested.
        task: ``pose`` or ``detection``.
        confidence: predictions with scores above it were compared.
    """

    first: str
    second: str
    images: tuple[ImageComparison, ...]
    noise_db: dict[str, float]
    outputs: dict[str, TensorGap] = field(default_factory=dict)
    task: str = "pose"
    confidence: float = 0.0

    @property
    def found(self) -> int:
        """Number of people or objects that the first file finds."""
        return sum(image.first for image in self.images)

    @property
    def matched(self) -> int:
        return sum(image.matched for image in self.images)

    @property
    def missed(self) -> int:
        return sum(image.missed for image in self.images)

    @property
    def extra(self) -> int:
        return sum(image.extra for image in self.images)

    @property
    def px_mean(self) -> float:
        return sum(image.px_mean * image.matched for image in self.images) / max(self.matched, 1)

    @property
    def loss(self) -> float:
        """1 - mean OKS (objects: IoU) of matched pairs and unmatched detections, which count as 0; 0.0 without any."""
        counted = self.matched + self.missed + self.extra
        return 1.0 - sum(image.similarity_sum for image in self.images) / counted if counted else 0.0

    def to_dict(self) -> dict[str, Any]:
        totals = ("found", "matched", "missed", "extra", "px_mean", "loss")
        return {**asdict(self), "total": {name: getattr(self, name) for name in totals}}

    def __str__(self) -> str:
        task = TASKS[self.task]
        return (
            f"{self.found} {task.many} with scores above {self.confidence:g} in {len(self.images)} images:"
            f" {self.matched} found by both, {self.missed} missed, {self.extra} extra; {task.points}"
            f" {self.px_mean:.2f} px apart, {task.similarity} loss {self.loss:.4f}"
        )

    @property
    def header(self) -> tuple[str, ...]:
        """Column names of the table of images."""
        task = TASKS[self.task]
        return ("image", task.many, "second", "missed", "extra", "px mean", "px max", task.similarity, "score")
