"""Thresholds against implementations written for clarity: loops over bins, scipy-free, one candidate at a time."""

import math

import numpy as np
import pytest

from trt_pose.choices import CalibrationMethod as Method
from trt_pose.quantization.histogram import BINS, Histogram, entropy_bins, mse_bins, percentile_bins


def slow_entropy(counts):
    """The divergence of every candidate, bin by bin, as the 2017 talk describes it, spikes lowered first."""
    counts = [float(value) for value in counts]
    size = len(counts)
    if sum(counts) < 16 * size:  # too few values to tell bins apart
        if size <= 256:
            return size
        pairs = [sum(counts[index : index + 2]) for index in range(0, size, 2)]
        return min(2 * slow_entropy(pairs), size)
    lowered = []
    for index, value in enumerate(counts):
        others = [counts[i] for i in range(max(0, index - 32), min(size, index + 33)) if i != index]
        lowered.append(min(value, max(others)))
    best = (math.inf, None)
    if not any(lowered):
        return size
    total = sum(lowered)
    everything = sum(counts)
    for end in range(128, size + 1):
        if sum(counts[:end]) < 0.99999 * everything - 1e-9:
            continue
        clipped = sum(lowered[end:])
        reference = lowered[:end]
        reference[-1] += clipped
        quantized = [0.0] * end
        for level in range(128):
            low, high = level * end // 128, (level + 1) * end // 128
            inside = sum(lowered[low:high])
            if level == 127:
                inside = max(inside, 1e-4)
            filled = sum(1 for i in range(low, high) if reference[i] > 0)
            for i in range(low, high):
                if reference[i] > 0:
                    quantized[i] = inside / filled
        kept = sum(lowered[:end])
        if kept == 0:
            continue
        divergence = sum(
            p / total * math.log((p / total) / (q / kept)) for p, q in zip(reference, quantized, strict=True) if p > 0
        )
        if divergence < best[0] - 1e-12:
            best = (divergence, end)
    return best[1]


def samples(rng):
    return {
        "normal": rng.normal(size=2_000_000),
        "relu": np.maximum(rng.normal(size=2_000_000), 0),
        "laplace": rng.laplace(size=2_000_000),
        "uniform": rng.uniform(0, 1, 2_000_000),
        "heavy": rng.standard_t(2.5, 2_000_000),
        "few": np.abs(rng.normal(3, 0.2, 300)),
        "padded": np.concatenate([rng.normal(size=1_000_000), np.full(1_000_000, 0.7)]),
    }


def small_histogram(values, bins=400):
    counts, _ = np.histogram(np.abs(values), bins, (0, np.abs(values).max()))
    return counts.astype(float)


@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "uniform", "heavy", "few", "padded"])
def test_entropy_equals_the_slow_version(name, rng):
    counts = small_histogram(samples(rng)[name])
    assert entropy_bins(counts) == slow_entropy(counts)


def test_entropy_is_not_minmax(rng):
    """ONNX Runtime's entropy has one candidate and equals its MinMax on every one of these."""
    for name, values in (("laplace", rng.laplace(size=1_000_000)), ("heavy", rng.standard_t(3.5, 1_000_000))):
        histogram = Histogram()
        histogram.add(values.astype(np.float32))
        entropy, largest = histogram.threshold(Method.ENTROPY), histogram.threshold(Method.MINMAX)
        assert 0.02 * largest < entropy < 0.9 * largest, name


def test_constant_areas_do_not_decide_the_threshold(rng):
    """Padding fills single bins; unlowered, the divergence prefers to keep them apart and clips half of the rest."""
    values = np.abs(rng.normal(size=200_000)).astype(np.float32)
    plain, padded = Histogram(), Histogram()
    plain.add(values)
    padded.add(np.concatenate([values, np.full(150_000, 0.913, np.float32), np.zeros(100_000, np.float32)]))
    assert padded.threshold(Method.ENTROPY) > 0.8 * plain.threshold(Method.ENTROPY)


def test_one_outlier_does_not_rule(rng):
    histogram = Histogram()
    histogram.add(np.append(rng.normal(size=100_000), 300.0).astype(np.float32))
    assert histogram.threshold(Method.ENTROPY) < 20
    assert histogram.threshold(Method.PERCENTILE) < 5
    assert histogram.threshold(Method.MINMAX) == 300


def test_mse_equals_the_slow_version(rng):
    counts = small_histogram(samples(rng)["laplace"])
    tried = sorted({int(value) for value in np.linspace(len(counts) // 8, len(counts), 256)})

    def error(bins):
        scale, total = bins / 127, 0.0
        for index, count in enumerate(counts):
            center = index + 0.5
            total += count * (min(round(center / scale), 127) * scale - center) ** 2
        return total

    assert mse_bins(counts) == min(tried, key=error)


def test_percentile_holds_its_share(rng):
    counts = small_histogram(samples(rng)["normal"])
    for percentile in (50.0, 99.0, 99.9):
        bins = percentile_bins(counts, percentile)
        assert counts[:bins].sum() >= percentile / 100 * counts.sum() > counts[: bins - 1].sum()


def test_counts_equal_numpy_and_do_not_depend_on_order(rng):
    batches = [rng.normal(scale=scale, size=(3, 50, 7)).astype(np.float32) for scale in (0.01, 5, 0.3, 100, 1)]
    first, second = Histogram(), Histogram()
    for batch in batches:
        first.add(batch)
    for batch in reversed(batches):
        second.add(batch)
    everything = np.abs(np.concatenate([batch.ravel() for batch in batches]))
    wanted, _ = np.histogram(everything, BINS, (0, first.range))
    np.testing.assert_array_equal(first.counts, wanted)
    np.testing.assert_array_equal(second.counts, first.counts)
    assert first.range / 2 <= everything.max() < first.range
    assert first.largest == everything.max()
    assert first.seen == everything.size


def test_powers_of_two_lie_inside_the_range():
    for value in (0.5, 1.0, 2.0, 255.0, 256.0, 1e-20, 3e30):
        histogram = Histogram()
        histogram.add(np.array([value, -value], np.float32))
        assert histogram.counts.sum() == 2, value


def test_zeros_and_nan():
    histogram = Histogram()
    histogram.add(np.zeros((2, 3), np.float32))
    assert histogram.threshold(Method.ENTROPY) == 0.0
    histogram.add(np.array([1.0], np.float32))
    assert histogram.counts.sum() == 7
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            histogram.add(np.array([1.0, bad], np.float32))


def test_a_constant_tensor_keeps_its_value():
    histogram = Histogram()
    histogram.add(np.full(1000, 3.0, np.float32))
    for method in Method:
        assert histogram.threshold(method) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    "values",
    [
        lambda rng: np.concatenate([np.zeros(50_000), rng.uniform(3, 4, 50_000)]),
        lambda rng: rng.normal(size=48),
        lambda rng: rng.normal(size=256),
        lambda rng: np.concatenate([np.zeros(1_000_000), rng.uniform(0, 1, 50)]),
        lambda rng: rng.normal(5, 0.01, 100_000),
    ],
    ids=["far from zero", "48 values", "256 values", "nearly always zero", "narrow"],
)
def test_no_method_collapses(values, rng):
    """Less than a hundredth of the power is lost, whatever the distribution."""
    data = values(rng).astype(np.float32)
    histogram = Histogram()
    histogram.add(data)
    for method in Method:
        scale = histogram.threshold(method) / 127
        error = np.clip(np.rint(data / scale), -127, 127) * scale - data
        assert np.square(data).sum() > 100 * np.square(error).sum(), method
