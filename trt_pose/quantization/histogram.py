"""Histograms of activations with a growing range, and the INT8 threshold that each method derives from one."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ..choices import CalibrationMethod

Counts = npt.NDArray[np.float64]
# Ranges are powers of two, so at least half of the bins (2,048) lie below the largest value seen.
BINS = 4096
LEVELS = 128  # magnitudes of a symmetric INT8 tensor
# OpenCV counts in float32, which is exact up to this number.
_EXACT = 1 << 24
_TRACE = 1e-4  # values that Q gets in an empty last level
# Bins on each side that a spike is compared with; wider than the gaps in a histogram of few distinct values.
_NEIGHBOURS = 32
# Values per bin below which neighbouring bins are merged; and the share of values that no entropy threshold may clip,
# because large people are found by rare large values (benchmarks/results/accuracy.md).
_PER_BIN, _KEPT = 16, 0.99999


class Histogram:
    """Histogram of the magnitudes of one tensor, filled batch by batch in constant memory.

    Attributes:
        counts: (BINS,) values per bin of equal width, from 0 to ``range``.
        range: upper end, a power of two above every value seen; 0.0 before the first value that is not zero.
        largest: the largest magnitude seen.
        seen: number of values.

    The range doubles, and bins merge in pairs, when a larger value arrives. Since every range is a power of two, the
    result does not depend on the order of the batches.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS)
        self.range = 0.0
        self.largest = 0.0
        self.seen = 0

    def copy(self) -> Histogram:
        """Returns an independent copy."""
        twin = Histogram()
        twin.counts, twin.range, twin.largest, twin.seen = self.counts.copy(), self.range, self.largest, self.seen
        return twin

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Counts ``values`` of any shape. Raises ValueError when one of them is not finite."""
        flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
        low, high = float(flat.min(initial=0.0)), float(flat.max(initial=0.0))
        largest = max(high, -low)
        if not np.isfinite(largest):
            raise ValueError("not finite")
        self.seen += flat.size
        if largest == 0.0:
            self.counts[0] += flat.size
            return
        self._reach(largest)
        self.largest = max(self.largest, largest)
        for start in range(0, flat.size, _EXACT):
            self.counts += self._count(flat[:, start : start + _EXACT], negative=low < 0.0)

    def _count(self, flat: npt.NDArray[np.float32], negative: bool) -> Counts:
        if not negative:
            return cv2.calcHist([flat], [0], None, [BINS], [0.0, self.range]).ravel().astype(np.float64)
        both = cv2.calcHist([flat], [0], None, [2 * BINS], [-self.range, self.range]).ravel().astype(np.float64)
        folded: Counts = both[BINS:] + both[BINS - 1 :: -1]
        return folded

    def _reach(self, largest: float) -> None:
        wanted = float(2.0 ** np.floor(np.log2(largest) + 1.0))
        wanted = wanted if wanted > largest else wanted * 2.0
        if self.range == 0.0:
            self.range = wanted
        while self.range < wanted:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([pairs, np.zeros(BINS // 2)])
            self.range *= 2.0

    def threshold(self, method: CalibrationMethod, percentile: float = 99.99) -> float:
        """Returns the magnitude that maps to 127; 0.0 for a tensor that is always zero.

        Args:
            method: how the magnitude is chosen.
            percentile: percentage of the values below it, 0..100; used by the ``percentile`` method only.
        """
        if self.range == 0.0 or method is CalibrationMethod.MINMAX:
            return self.largest
        used = int(np.flatnonzero(self.counts)[-1]) + 1
        choose: dict[CalibrationMethod, Callable[[Counts], int]] = {
            CalibrationMethod.ENTROPY: entropy_bins,
            CalibrationMethod.MSE: mse_bins,
            CalibrationMethod.PERCENTILE: lambda counts: percentile_bins(counts, percentile),
        }
        return min(choose[method](self.counts[:used]) * self.range / BINS, self.largest)


def entropy_bins(counts: Counts) -> int:
    """Returns the number of bins below the threshold that loses the least information (Kullback-Leibler divergence).

    For every candidate, the distribution P below it, with all values above added to the last bin, is compared with Q,
    the same distribution quantized to 128 levels (S. Migacz, 8-bit inference with TensorRT, GTC 2017). ``slow_entropy``
    in the tests computes the same by plain loops.

    Args:
        counts: (n,) values per bin, the last not zero.

    Returns:
        A number from LEVELS to n; n when there are at most LEVELS bins or too few values.
    """
    merged, width = _merge_sparse(counts)
    if len(merged) <= LEVELS or merged.sum() < _PER_BIN * len(merged):
        return len(counts)
    smooth = _without_spikes(merged)
    candidates = _candidate_bins(merged)
    if not smooth[: candidates[0]].any():
        return len(counts)
    best = int(candidates[int(_divergences(smooth, candidates).argmin())])
    return min(width * best, len(counts))


def _merge_sparse(counts: Counts) -> tuple[Counts, int]:
    """Merges neighbouring bins while there are too few values for single bins; returns also the bins per merged bin."""
    width = 1
    while counts.sum() < _PER_BIN * len(counts) and len(counts) > 2 * LEVELS:
        even = np.append(counts, 0.0) if len(counts) % 2 else counts
        counts, width = even.reshape(-1, 2).sum(axis=1), 2 * width
    return counts, width


def _candidate_bins(counts: Counts) -> npt.NDArray[np.int64]:
    """Returns (C,) the numbers of bins to compare: those that clip at most the allowed share of the values.

    A candidate with almost no values below it would have divergence 0, and clip almost all values.
    """
    least = int(np.searchsorted(np.cumsum(counts), _KEPT * counts.sum())) + 1
    return np.arange(max(LEVELS, least), len(counts) + 1, dtype=np.int64)


def _divergences(counts: Counts, candidates: npt.NDArray[np.int64]) -> Counts:
    """Returns (C,) the divergence of P from Q per candidate.

    The sum over a level is a difference of cumulative sums, so all candidates are computed at once.
    """
    edges = candidates[:, None] * np.arange(LEVELS + 1) // LEVELS  # (C, LEVELS + 1) first bin of each level
    total, below, last = counts.sum(), _running(counts), counts[candidates - 1]
    outliers = total - below[candidates]
    q = np.diff(below[edges], axis=1)  # (C, LEVELS) values per level
    p = q.copy()
    p[:, -1] += outliers
    bins = np.diff(_running(counts > 0)[edges], axis=1)  # bins that share the values of a level
    bins[:, -1] += (last == 0) & (outliers > 0)
    # If the last level is empty, a single clipped value would make the divergence infinite, so Q gets a tiny value.
    q[:, -1] = np.maximum(q[:, -1], _TRACE)
    log_q = np.log(np.where(p > 0, q, 1.0) / np.where(p > 0, bins, 1.0))
    p_log_p = _running(_xlogx(counts))[candidates - 1] + _xlogx(last + outliers)
    divergences: Counts = (p_log_p - (p * log_q).sum(axis=1)) / total + np.log(below[candidates] / total)
    return divergences


def _without_spikes(counts: Counts) -> Counts:
    """Lowers each bin to the highest of its neighbours.

    Zeros after a ReLU and the constant areas of letterbox padding fill single bins with up to half of all values. The
    divergence then prefers the threshold that separates these bins from their neighbours, however much it clips. On
    padded photographs this cost YOLO-NAS-Pose-S 8 to 10 dB (benchmarks/results/calibration.md).
    """
    others = np.ones((1, 2 * _NEIGHBOURS + 1), np.uint8)
    others[0, _NEIGHBOURS] = 0
    highest = cv2.dilate(counts[None], others)[0]
    lowered: Counts = np.minimum(counts, np.maximum(highest, 0.0))  # cv2.dilate pads with minus infinity
    return lowered


def mse_bins(counts: Counts, candidates: int = 256) -> int:
    """Returns the number of bins below the threshold with the least squared error of rounding and clipping."""
    centers = np.arange(len(counts)) + 0.5
    tried = np.unique(np.linspace(max(len(counts) // 8, 1), len(counts), candidates).astype(int))
    scales = tried[:, None] / (LEVELS - 1.0)
    errors = np.minimum(np.rint(centers / scales), LEVELS - 1.0) * scales - centers
    return int(tried[int((errors**2 @ counts).argmin())])


def percentile_bins(counts: Counts, percentile: float) -> int:
    """Returns the number of bins that hold ``percentile`` percent of the values."""
    share = np.cumsum(counts) / counts.sum()
    bins = int(np.searchsorted(share, percentile / 100.0)) + 1
    # If nearly all values lie in the first bin, the percentile is that of the other values.
    return percentile_bins(np.append(0.0, counts[1:]), percentile) if bins == 1 and counts[1:].any() else bins


def _running(values: npt.NDArray[np.generic]) -> Counts:
    """Returns the cumulative sum with a leading zero; the sum of bins i to j - 1 is ``r[j] - r[i]``."""
    sums: Counts = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return sums


def _xlogx(values: Counts) -> Counts:
    product: Counts = values * np.log(np.where(values > 0, values, 1.0))
    return product
