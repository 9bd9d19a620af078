"""Which layers INT8 costs most, and which to leave out to reach a given quality."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..choices import Precision
from ..errors import CalibrationError, UsageError
from ..files import cache_folder, write_atomically
from ..graphs.file import load, read_spec
from ..progress import track
from .batches import Pixels
from .calibrate import calibrate
from .network import Layer, Network
from .qdq import quantize_layers
from .quantize import QuantizeOptions, Seen, check_precision
from .snr import compute, signal_to_noise

_SAVE_EVERY = 10  # layers


@dataclass(frozen=True)
class Sensitivity:
    """The cost of every layer.

    Attributes:
        alone_db: layer to the signal to noise of the network's outputs with that layer alone in INT8; the worst first.
        all_db: with all of them in INT8.
        target_db: what was asked for, None when nothing was.
        exclude: layers to leave out to reach it; their order is that of ``alone_db``.
        reached_db: with those left out.
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

    Measured are the network's outputs before decode and NMS, the worst of them counting, on up to four images of the
    data. Results of single layers are kept while it runs: an interrupted analysis goes
    on where it was.

    Args:
        source: an FP32 file. data: images, see :func:`trt_pose.quantization.open_batches`.
        options: calibration, cache and candidate layers.
        target_db: signal to noise to reach; None proposes nothing.

    Raises:
        UsageError: a target that even FP32 misses. CalibrationError, ExportError: see :func:`quantize`.
    """
    options = options or QuantizeOptions()
    if target_db is not None and not np.isfinite(target_db):
        raise UsageError(f"sensitivity: got a target of {target_db} dB, expected a number. Correct it.")
    proto = load(source)
    spec, network = read_spec(proto), Network(proto)
    check_precision(spec, Precision.INT8)
    layers = options.selective.choose(network.layers)
    seen = Seen(data, spec)
    passing = None if data is None else seen.passing(options.calibration.batches)
    cache = calibrate(network, network.activations(), passing, options.calibration, options.cache)
    samples = seen.samples()
    reference = compute(proto, network.border, samples)

    def quality(chosen: Sequence[Layer]) -> float:
        found = compute(quantize_layers(network, chosen, cache.thresholds), network.border, samples)
        return min(signal_to_noise(reference[name], found[name]) for name in network.border)

    key = "\n".join([cache.model, json.dumps(cache.thresholds), _digest(samples)])
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
    """Signal to noise with each layer alone in INT8; what an interrupted run measured is taken over."""
    alone: dict[str, float] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        alone = {str(name): float(value) for name, value in json.loads(kept.read_text()).items()}
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
        write_atomically(kept, lambda path: path.write_text(json.dumps(alone)), CalibrationError)


def _fewest(
    ranked: Sequence[Layer], quality: Callable[[Sequence[Layer]], float], everything: float, target_db: float | None
) -> tuple[int, float]:
    """The fewest of the worst layers to leave out, by bisection, and the quality that reaches."""
    if target_db is None or everything >= target_db:
        return 0, everything
    low, high, best = 0, len(ranked), float("inf")  # without `low` of them it is missed, without `high` it is reached
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
