"""Conversion of an ONNX file to INT8, FP16 or both, with a report of the layers and the noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..choices import Precision
from ..errors import ExportError, UsageError
from ..files import check_writable
from ..graphs.file import describe, load, read_spec, save
from ..images.pixels import example, letterbox
from ..progress import step
from ..spec import ON_NOISE, ModelSpec
from .batches import Pixels, check_batch, is_noise, open_batches
from .calibrate import CalibrationOptions, calibrate
from .fp16 import find_overflows, to_half
from .layers import SelectiveQuantizer
from .network import Layer, Network
from .qdq import quantize_layers
from .snr import Noise

# Number of images for the FP16 overflow check and the noise measurement.
_SAMPLES = 4


@dataclass(frozen=True)
class QuantizeOptions:
    """Options of a quantization.

    Attributes:
        precision: ``int8``, ``fp16`` or ``int8+fp16``; None takes ``int8+fp16`` for files with TensorRT plugins, else
            ``int8``.
        calibration: how INT8 ranges are found.
        selective: which layers become INT8.
        cache: a calibration cache to use or write.
    """

    precision: str | Precision | None = Precision.INT8
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    selective: SelectiveQuantizer = field(default_factory=SelectiveQuantizer)
    cache: Path | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """Result of a quantization.

    Attributes:
        precision: precision of the result.
        method: calibration method; empty without a calibration.
        images: number of calibration images.
        int8_layers: number of layers that run in INT8.
        layers: number of layers that can run in INT8.
        kept: the reason why a layer or node stays in a higher precision, by name.
        noise_db: signal-to-noise ratio of each output of the network relative to the source file, dB. It is measured
            before decode and NMS, on calibration images or the bundled photograph. Infinite when nothing changed.
        on_noise: whether the calibration images were noise.
    """

    precision: Precision
    method: str
    images: int
    int8_layers: int
    layers: int
    kept: dict[str, str]
    noise_db: dict[str, float]
    on_noise: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        parts = [str(self.precision)]
        if self.images:
            over = f"{self.images} {'images' if not self.on_noise else ON_NOISE}"
            parts.append(f"{self.int8_layers} of {self.layers} layers in INT8, {self.method} over {over}")
        if self.kept:
            parts.append(f"{len(self.kept)} kept")
        return ", ".join(parts)


def quantize(
    source: str | Path, output: str | Path, data: Any = None, options: QuantizeOptions | None = None
) -> QuantizationReport:
    """Writes a quantized copy of an ONNX file, atomically.

    Args:
        source: an FP32 file with a ModelSpec, or an INT8 file to convert to ``int8+fp16``.
        output: path of the ``.onnx`` file to write.
        data: images to calibrate on, see :func:`trt_pose.quantization.open_batches`; FP16 needs none.
        options: precision, method and layers.

    Raises:
        CalibrationError: no data, bad data, a cache that does not match, or a file without a description.
        UsageError: a pattern that matches no layer, a wrong suffix, or a source in another precision.
        ExportError: a damaged file, or an output that cannot be written.
    """
    if Path(output).suffix.lower() != ".onnx":
        raise UsageError(f"quantizing to {output}: got the suffix {Path(output).suffix or 'none'!r}, expected .onnx.")
    proto = load(source)
    check_writable(output, ExportError)
    made, report = quantize_model(proto, data, options or QuantizeOptions())
    save(made, output)
    return report


def quantize_model(
    proto: onnx.ModelProto, data: Any, options: QuantizeOptions
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """Quantizes a model in memory, see :func:`quantize`; does not change ``proto``."""
    spec = read_spec(proto)
    fitting = Precision.INT8_FP16 if spec.plugins_required else Precision.INT8
    wanted = fitting if options.precision is None else Precision.parse(options.precision, "precision")
    check_precision(spec, wanted)
    network, samples = Network(proto), SampleBuffer(data, spec)
    made, cache, chosen, kept = network.proto, None, list[Layer](), dict[str, str]()
    if wanted.has_int8 and spec.precision == Precision.FP32:
        chosen = options.selective.choose(network.layers)
        kept = {layer.name: "excluded" for layer in network.layers if layer not in chosen}
        passing = samples.passing(options.calibration) if data is not None else None
        cache = calibrate(network, network.activations(), passing, options.calibration.of_everything(), options.cache)
    noise = cache is not None and data is not None and _warn_of_noise(samples.samples())
    overflows: dict[str, str] = {}
    if wanted.has_fp16:
        with step("looking for values beyond FP16"):
            overflows = find_overflows(network, samples.samples())
        kept.update(overflows)
        chosen = [layer for layer in chosen if layer.name not in overflows]
    if cache is not None:
        with step("placing quantizers"):
            made = quantize_layers(network, chosen, cache.thresholds)
    if wanted.has_fp16:
        with step("converting to FP16"):
            made = to_half(Network(made) if cache else network, overflows)
    report = QuantizationReport(
        precision=wanted,
        method=cache.method if cache else "",
        images=cache.images if cache else 0,
        int8_layers=len(chosen),
        layers=len(network.layers),
        kept=kept,
        noise_db=Noise(network, samples.samples()).of(made),
        on_noise=noise,
    )
    describe(made, spec, str(report.precision), str(report))
    return made, report


def _warn_of_noise(samples: list[Pixels]) -> bool:
    """Returns whether all calibration images are noise; warns if they are."""
    if not all(map(is_noise, samples)):
        return False
    warnings.warn(
        "calibrating on noise: its ranges are not those of images, and usually ruin the accuracy. Give a folder or a"
        " DataLoader of images like those the model will see.",
        stacklevel=3,
    )
    return True


def check_precision(spec: ModelSpec, wanted: Precision) -> None:
    has = Precision.parse(spec.precision, "precision")
    halving = has is Precision.INT8 and wanted is Precision.INT8_FP16
    if wanted is Precision.FP32 or (has is not Precision.FP32 and not halving):
        raise UsageError(
            f"quantizing to {wanted}: the file is in {has}. Quantize an FP32 file to fp16, int8 or int8+fp16."
        )


class SampleBuffer:
    """The first images of the data, kept while it is read, because some loaders can be read only once."""

    def __init__(self, data: Any, spec: ModelSpec) -> None:
        self._data, self._spec, self._kept = data, spec, list[Pixels]()

    def passing(self, options: CalibrationOptions) -> Any:
        """Returns the batches of the data that ``options`` take; keeps the first images as they are read."""
        batches = options.open(self._data, self._spec.input)

        def remember() -> Iterator[Pixels]:
            for batch in batches:
                self._keep(batch)
                yield batch

        return remember()

    def _keep(self, batch: Pixels) -> None:
        room = _SAMPLES - sum(map(len, self._kept))
        if room > 0:
            self._kept.append(batch[:room])

    def samples(self) -> list[Pixels]:
        """Returns the first images of the data, or the bundled photograph if there is no data."""
        if not self._kept and self._data is not None:
            for batch in open_batches(self._data, self._spec.input, images=_SAMPLES):
                self._keep(batch)
        if self._kept:
            return self._kept
        inputs = self._spec.input
        if inputs.custom_preprocessing:  # the expected values are unknown: use noise of its type and shape
            shape = (inputs.batch or 1, inputs.channels, inputs.height, inputs.width)
            noise = np.random.default_rng(0).random(shape, np.float32)
            return [(noise * 255).astype(np.uint8) if inputs.dtype == "uint8" else noise]
        pixels, _ = letterbox(example(), inputs)
        return [check_batch(pixels[None], inputs)]
