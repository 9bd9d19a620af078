"""Sensitivity of each layer to INT8, and the layers to exclude to reach a given quality."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..choices import Precision
from ..documents import parse, to_json
from ..errors import CalibrationError, UsageError
from ..files import cache_folder, write_atomically
from ..graphs.file import load, read_spec
from ..progress import track
from .batches import Pixels
from .calibrate import calibrate
from .network import Layer, Network
from .qdq import quantize_layers
from .quantize import QuantizeOptions, SampleBuffer, check_precision
from .snr import Noise

_SAVE_EVERY = 10  # layers


@dataclass(frozen=True)
class Sensitivity:
    """Result of a sensitivity analysis. Ratios are signal-to-noise ratios of the network's outputs, dB.

    Attributes:
        alone_db: ratio with one layer alone in INT8, by layer name; the worst first.
        all_db: ratio with all candidate layers in INT8.
        target_db: requested ratio, or None.
        exclude: layers to exclude to reach the target, in the order of ``alone_db``.
        reached_db: ratio with these layers excluded.
    """

    alone_db: dict[str, float]
    all_db: float
    target_db: float | None
    exclude: tuple[str, ...]
    reached_db: float


def analyze(
    source: str | Path, data: Any, options: QuantizeOptions | None = None, target_db: float | None = None
) -> Sensitivity:
    """Quantizes each layer alone, ranks them, and proposes exclusions.

    The ratio is that of the worst output of the network before decode and NMS, on up to four images of the data.
    Results of single layers are saved during the run, so that an interrupted analysis can resume.

    Args:
        source: an FP32 file.
        data: images, see :func:`trt_pose.quantization.open_batches`.
        options: calibration, cache and candidate layers.
        target_db: signal-to-noise ratio to reach, dB; None proposes no exclusions.

    Raises:
        UsageError: the target is not finite, the file is not in FP32, or a pattern matches no layer.
        CalibrationError: see :func:`quantize`.
        ExportError: see :func:`quantize`.
    """
    options = options or QuantizeOptions()
    if target_db is not None and not np.isfinite(target_db):
        raise UsageError(f"sensitivity: got a target of {target_db} dB, expected a number.")
    proto = load(source)
    spec, network = read_spec(proto), Network(proto)
    check_precision(spec, Precision.INT8)
    layers = options.selective.choose(network.layers)
    buffer = SampleBuffer(data, spec)
    passing = None if data is None else buffer.passing(options.calibration)
    cache = calibrate(network, network.activations(), passing, options.calibration.of_everything(), options.cache)
    samples = buffer.samples()
    noise = Noise(network, samples)

    def quality(chosen: Sequence[Layer]) -> float:
        return min(noise.of(quantize_layers(network, chosen, cache.thresholds)).values())

    key = "\n".join([cache.model, to_json(cache.thresholds), _digest(samples)])
    kept = cache_folder("sensitivity") / f"{_sha(key)[:24]}.json"
    alone = _each_alone(layers, quality, kept)
    everything = quality(layers)
    ranked = sorted(layers, key=lambda layer: alone[layer.name])
    count, reached = _fewest(ranked, quality, everything, target_db)
    with suppress(OSError):
        kept.unlink(missing_ok=True)
    return Sensitivity(
        alone_db={layer.name: alone[layer.name] for layer in ranked},
        all_db=everything,
        target_db=target_db,
        exclude=tuple(layer.name for layer in ranked[:count]),
        reached_db=reached,
    )


def _each_alone(layers: Sequence[Layer], quality: Callable[[Sequence[Layer]], float], kept: Path) -> dict[str, float]:
    """Returns the ratio with each layer alone in INT8; reuses the results of an interrupted run."""
    alone: dict[str, float] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        alone = {str(name): float(value) for name, value in parse(kept.read_bytes()).items()}
    try:
        for index, layer in enumerate(track(layers, "measuring layers", len(layers))):
            if layer.name not in alone:
                alone[layer.name] = quality([layer])
            if index % _SAVE_EVERY == 0:
                _save(alone, kept)
    finally:
        _save(alone, kept)
    return alone


def _save(alone: dict[str, float], kept: Path) -> None:
    with suppress(OSError, CalibrationError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, lambda path: path.write_text(to_json(alone), encoding="utf-8"), CalibrationError)


def _fewest(
    ranked: Sequence[Layer], quality: Callable[[Sequence[Layer]], float], everything: float, target_db: float | None
) -> tuple[int, float]:
    """Finds by bisection how many of the worst layers to exclude; returns this number and the quality reached."""
    if target_db is None or everything >= target_db:
        return 0, everything
    low, high, best = 0, len(ranked), float("inf")  # excluding `low` misses the target, `high` reaches it
    while high - low > 1:
        middle = (low + high) // 2
        reached = quality(ranked[middle:])
        if reached >= target_db:
            high, best = middle, reached
        else:
            low = middle
    return high, best


def _digest(samples: Sequence[Pixels]) -> str:
    return _sha(b"".join(np.ascontiguousarray(batch).tobytes() for batch in samples))


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
