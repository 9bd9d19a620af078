"""Statistics of latencies with trtexec's definitions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Statistics of one kind of time, ms; ``percentiles`` maps a share in % to its value."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: Mapping[float, float]

    def __str__(self) -> str:
        """Returns one line in trtexec's format."""
        parts = [f"{name} = {getattr(self, name):.4g} ms" for name in ("min", "max", "mean", "median")]
        parts += [f"percentile({share:g}%) = {value:.4g} ms" for share, value in self.percentiles.items()]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        shares = {f"p{share:g}": value for share, value in self.percentiles.items()}
        return {"min": self.min, "max": self.max, "mean": self.mean, "median": self.median, **shares}


def summarize(values_ms: Sequence[float], shares: Sequence[float]) -> Figures:
    """Returns the statistics of ``values_ms``, at least one value, with the percentiles ``shares`` in %."""
    ordered = sorted(values_ms)
    return Figures(
        ordered[0],
        ordered[-1],
        statistics.fmean(ordered),
        statistics.median(ordered),
        {share: percentile(ordered, share) for share in shares},
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the value that ``share`` % of the values do not exceed.

    trtexec computes it so (sampleReporting.cpp), but in float32, and may differ by one rank.
    """
    excluded = int((100.0 - share) * len(ordered) / 100.0)
    return ordered[max(len(ordered) - 1 - excluded, 0)]


@dataclass(frozen=True)
class Ratio:
    """Ratio of a file's latency to that of the first file, over the turns.

    Attributes:
        median: median of the ratios of the turns.
        low: smallest ratio of the middle nine tenths.
        high: largest ratio of the middle nine tenths.
        turns: number of turns.
    """

    median: float
    low: float
    high: float
    turns: int

    def __str__(self) -> str:
        if self.turns < 3:  # no spread was measured
            return f"{self.median:.3f} ({'one turn' if self.turns == 1 else f'{self.turns} turns'})"
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f} over {self.turns} turns)"


def ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Returns the ratio of two files from the medians of their turns.

    The turns alternate, so a slowdown of the machine affects both files.
    """
    quotients = sorted(a / b for a, b in zip(values, reference, strict=True))
    cut = len(quotients) // 20
    kept = quotients[cut : len(quotients) - cut]
    return Ratio(statistics.median(quotients), kept[0], kept[-1], len(quotients))
