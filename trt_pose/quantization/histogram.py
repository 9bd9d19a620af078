"""Histograms of activations that grow with their data, and the INT8 threshold each method reads off one."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ..choices import CalibrationMethod

Counts = npt.NDArray[np.float64]
# Ranges are powers of two, so at least half of the bins lie below the largest value seen: 2,048 or more of them.
BINS = 4096
LEVELS = 128  # magnitudes of a symmetric INT8 tensor
# OpenCV counts in float32, exact up to here.
_EXACT = 1 << 24
_TRACE = 1e-4  # of one value
# Bins to each side in which a spike is compared; wider than the gaps in a histogram of few distinct values.
_NEIGHBOURS = 32


# Values per bin from which a histogram is taken bin by bin; and the share of them that no entropy threshold may clip:
# large people are found by rare large values (benchmarks/results/accuracy.md).
_PER_BIN, _KEPT = 16, 0.99999


class Histogram:
    """Magnitudes of one tensor, counted batch by batch in constant memory.

    Attributes:
        counts: (BINS,) values per bin of equal width, from 0 to ``range``.
        range: upper end, a power of two above every value seen; 0.0 before the first value that is not zero.
        largest: the largest magnitude seen. seen: number of values.

    The range doubles, and bins merge in pairs, when a larger value arrives. Since every range is a power of two, the
    result does not depend on the order of the batches.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS)
        self.range = 0.0
        self.largest = 0.0
        self.seen = 0

    def copy(self) -> Histogram:
        """A histogram of its own with the same counts."""
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
        """The magnitude that becomes 127; 0.0 for a tensor that is always zero.

        Args:
            method: how it is chosen. percentile: share of the values below it, for that method, in 0..100.
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
    """Number of bins below the threshold that loses the least information (Kullback-Leibler divergence).

    For every candidate the distribution below it, with everything above added to its last bin, is compared with itself
    quantized to 128 levels (S. Migacz, 8-bit inference with TensorRT, GTC 2017). Sums over levels are differences of
    cumulative sums, so all candidates are compared at once.

    Args:
        counts: (n,) values per bin, the last not zero.

    Returns:
        From LEVELS to n; n itself when there are no more than LEVELS bins, or too few values to tell.
    """
    if counts.sum() < _PER_BIN * len(counts) and len(counts) > 2 * LEVELS:
        # Few values say nothing about single bins: neighbours are merged until they do.
        even = np.append(counts, 0.0) if len(counts) % 2 else counts
        return min(2 * entropy_bins(even.reshape(-1, 2).sum(axis=1)), len(counts))
    if len(counts) <= LEVELS or counts.sum() < _PER_BIN * len(counts):
        return len(counts)
    h = _without_spikes(counts)
    # A candidate with next to nothing below it is compared with itself: divergence 0, and everything is clipped.
    least = int(np.searchsorted(np.cumsum(counts), _KEPT * counts.sum())) + 1
    candidates = np.arange(max(LEVELS, least), len(h) + 1)
    if not h[: candidates[0]].any():
        return len(counts)
    edges = candidates[:, None] * np.arange(LEVELS + 1) // LEVELS  # (C, LEVELS + 1)
    total, below, bins, weighted = h.sum(), _running(h), _running(h > 0), _running(_xlogx(h))
    outliers, last = total - below[candidates], h[candidates - 1]
    quantized = np.diff(below[edges], axis=1)  # (C, LEVELS)
    filled = np.diff(bins[edges], axis=1)
    reference = quantized.copy()
    reference[:, -1] += outliers
    filled[:, -1] += (last == 0) & (outliers > 0)
    # An empty last level cannot hold what is clipped into it: it gets a trace, or one outlier would rule all.
    quantized[:, -1] = np.maximum(quantized[:, -1], _TRACE)
    density = np.log(np.where(reference > 0, quantized, 1.0) / np.where(reference > 0, filled, 1.0))
    own = weighted[candidates - 1] + _xlogx(last + outliers)
    divergence = (own - (reference * density).sum(axis=1)) / total + np.log(below[candidates] / total)
    return int(candidates[int(divergence.argmin())])


def _without_spikes(counts: Counts) -> Counts:
    """Bins lowered to the highest of their neighbours.

    Zeros after a ReLU and the constant areas that letterbox padding leaves fill single bins with up to half of all
    values; the divergence then prefers the threshold that keeps these bins apart from their neighbours, whatever it
    clips: on padded photographs that cost YOLO-NAS-Pose-S 8 to 10 dB (benchmarks/results/calibration.md).
    """
    others = np.ones((1, 2 * _NEIGHBOURS + 1), np.uint8)
    others[0, _NEIGHBOURS] = 0
    highest = cv2.dilate(counts[None], others)[0]
    lowered: Counts = np.minimum(counts, np.maximum(highest, 0.0))  # the border is minus infinity
    return lowered


def mse_bins(counts: Counts, candidates: int = 256) -> int:
    """Number of bins below the threshold with the least squared error of rounding and clipping."""
    centers = np.arange(len(counts)) + 0.5
    tried = np.unique(np.linspace(max(len(counts) // 8, 1), len(counts), candidates).astype(int))
    scales = tried[:, None] / (LEVELS - 1.0)
    errors = np.minimum(np.rint(centers / scales), LEVELS - 1.0) * scales - centers
    return int(tried[int((errors**2 @ counts).argmin())])


def percentile_bins(counts: Counts, percentile: float) -> int:
    """Number of bins that hold ``percentile`` percent of the values."""
    share = np.cumsum(counts) / counts.sum()
    bins = int(np.searchsorted(share, percentile / 100.0)) + 1
    # A tensor that is nearly always zero: the percentile of what is not.
    return percentile_bins(np.append(0.0, counts[1:]), percentile) if bins == 1 and counts[1:].any() else bins


def _running(values: npt.NDArray[np.generic]) -> Counts:
    """Cumulative sum with a leading zero: the sum of bins i..j is ``r[j] - r[i]``."""
    sums: Counts = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return sums


def _xlogx(values: Counts) -> Counts:
    product: Counts = values * np.log(np.where(values > 0, values, 1.0))
    return product
