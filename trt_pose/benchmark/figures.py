"""Statistics of latencies, by trtexec's definitions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Of one kind of time, ms. ``percentiles`` by share in %."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: Mapping[float, float]

    def __str__(self) -> str:
        """One line, as trtexec prints it."""
        parts = [f"{name} = {getattr(self, name):.4g} ms" for name in ("min", "max", "mean", "median")]
        parts += [f"percentile({share:g}%) = {value:.4g} ms" for share, value in self.percentiles.items()]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        shares = {f"p{share:g}": value for share, value in self.percentiles.items()}
        return {"min": self.min, "max": self.max, "mean": self.mean, "median": self.median, **shares}


def summarize(values_ms: Sequence[float], shares: Sequence[float]) -> Figures:
    """Figures of at least one value."""
    ordered = sorted(values_ms)
    return Figures(
        ordered[0],
        ordered[-1],
        statistics.fmean(ordered),
        statistics.median(ordered),
        {share: percentile(ordered, share) for share in shares},
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """trtexec's: the value that ``share`` % of all are not above (its sampleReporting.cpp)."""
    excluded = int((100.0 - share) * len(ordered) / 100.0)
    return ordered[max(len(ordered) - 1 - excluded, 0)]


@dataclass(frozen=True)
class Ratio:
    """How a file's latency compares with the first file's, turn by turn.

    Attributes:
        median: of the turns' ratios. low, high: the smallest and largest of the middle nine tenths of them.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Of the medians of turns made one after the other: what slows the machine down slows both."""
    quotients = sorted(a / b for a, b in zip(values, reference, strict=True))
    cut = len(quotients) // 20
    kept = quotients[cut : len(quotients) - cut]
    return Ratio(statistics.median(quotients), kept[0], kept[-1])
