"""Preparation of the ONNX file for TensorRT: conversion of the graph to the requested precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..choices import BuildPrecision, Precision
from ..errors import CalibrationError, UsageError
from ..progress import step
from ..spec import ModelSpec
from ..trt.compatibility import check_buildable
from ..trt.flavor import describe_flavor
from .calibrator import write_images
from .options import BuildOptions
from .worker import ImplicitInt8

# Values of --precision. All INT8 values use FP16 where INT8 does not apply, which is fastest on a GPU.
PRECISIONS = {
    BuildPrecision.FP32: Precision.FP32,
    BuildPrecision.FP16: Precision.FP16,
    BuildPrecision.INT8: Precision.INT8_FP16,
    BuildPrecision.INT8_FP16: Precision.INT8_FP16,
    BuildPrecision.BEST: Precision.INT8_FP16,
}


@dataclass(frozen=True)
class Prepared:
    """The file TensorRT builds from.

    Attributes:
        path: path of the ONNX file.
        spec: description of the file.
        report: the quantization report; None when the file was not quantized.
        implicit: input of the calibrator for implicit INT8; None for other builds.
    """

    path: Path
    spec: ModelSpec
    report: dict[str, Any] | None = None
    implicit: ImplicitInt8 | None = None


@dataclass(frozen=True)
class QuantizeRequest:
    """How an FP32 file is converted to the requested precision.

    Attributes:
        data: images to calibrate on.
        options: a :class:`trt_pose.quantization.QuantizeOptions`; the build overrides its precision.
        verify: called with the original and the quantized ONNX file before the build; the result is stored in the
            description (see :func:`trt_pose.comparison.compare`).
    """

    data: Any = None
    options: Any = None
    verify: Callable[[Path, Path], dict[str, Any]] | None = None


def prepare(
    onnx: Path, precision: str | None, quantizing: QuantizeRequest, options: BuildOptions, folder: Path
) -> Prepared:
    """Returns the file for TensorRT in the requested precision; a quantized copy is written into ``folder``.

    Args:
        onnx: path of a file exported by trt_pose.
        precision: a key of :data:`PRECISIONS`; None keeps the precision of the file.
        quantizing: images and options of an INT8 build.
        options: the build options.
        folder: folder for the quantized file.

    Raises:
        UsageError: the options do not fit each other or the file.
        CalibrationError: the calibration data is missing or invalid.
    """
    from ..graphs.file import load, read_spec, save

    with step(f"reading {onnx.name}"):
        proto = load(onnx)
    spec = read_spec(proto)
    check_buildable(spec, describe_flavor(options.flavor))  # fail before a calibration
    options.profile(spec)
    has = Precision.parse(spec.precision, "precision")
    wanted = PRECISIONS[BuildPrecision.parse(precision, "precision")] if precision else has
    quantizes = has is Precision.FP32 and wanted is not Precision.FP32
    _check_used(quantizing, quantizes and wanted.has_int8, quantizes and options.int8_mode == "explicit")
    if options.int8_mode == "implicit":
        return _prepare_implicit(onnx, proto, spec, wanted, quantizing, options, folder)
    if has is wanted:
        return Prepared(onnx, spec)
    if options.strip_weights:
        raise UsageError(
            f"building {onnx} in {precision} with --stripWeights: the weights come back from the file that was built,"
            " and that would be a temporary one. Make it with trt-pose quantize, and build of it."
        )
    if has is not Precision.FP32 and not (has is Precision.INT8 and wanted is Precision.INT8_FP16):
        raise UsageError(
            f"building {onnx} in {precision}: the file is in {has} already. Leave --precision out, or build of the FP32"
            " file."
        )
    from ..quantization import QuantizeOptions, quantize_model

    made, report = quantize_model(
        proto, quantizing.data, replace(quantizing.options or QuantizeOptions(), precision=wanted)
    )
    path = folder / "quantized.onnx"
    save(made, path)
    return Prepared(path, read_spec(made), asdict(report))


def _check_used(quantizing: QuantizeRequest, calibrates: bool, compares: bool) -> None:
    """Raises UsageError for quantization options that this build would ignore."""
    chosen = quantizing.options
    layers = chosen is not None and (chosen.selective.exclude or chosen.selective.include != ("*",))
    if not calibrates and (quantizing.data is not None or (chosen is not None and chosen.cache is not None) or layers):
        raise UsageError(
            "building: images, a calibration cache and excluded layers belong to an INT8 build of an FP32 file. Leave"
            " them out, or add --precision int8."
        )
    if not compares and quantizing.verify is not None:
        raise UsageError(
            "building: --verify compares the file that is quantized for the build with the original, and nothing is"
            " quantized here. Leave it out, or compare the files with trt-pose compare."
        )


def _prepare_implicit(
    onnx: Path,
    proto: Any,
    spec: ModelSpec,
    wanted: Precision,
    quantizing: QuantizeRequest,
    options: BuildOptions,
    folder: Path,
) -> Prepared:
    """Returns the file for implicit INT8, with ranges in TensorRT 10's cache format, or with images for TensorRT."""
    from ..quantization import CalibrationCache, QuantizeOptions, calibrate
    from ..quantization.cache import to_tensorrt
    from ..quantization.network import Network

    chosen = quantizing.options or QuantizeOptions()
    if spec.precision != Precision.FP32 or not wanted.has_int8 or chosen.selective.exclude:
        raise UsageError(
            f"building {onnx} with --int8-mode implicit: it takes an FP32 file, --precision int8 and no --exclude, got"
            f" a file in {spec.precision} for {wanted}."
        )
    network = Network(proto)
    described = replace(spec, precision=str(wanted))
    if options.calibrator == "tensorrt":
        batches = chosen.calibration.open(_needed(quantizing.data), spec.input)
        count = write_images(batches, folder / "images")
        found = f"implicit INT8 and FP16, TensorRT's entropy on {count} images"
        implicit = ImplicitInt8(None, folder / "images", tuple(sorted(network.nodes)), spec.input.name)
        return Prepared(onnx, replace(described, quantization=found), implicit=implicit)
    everything = dict.fromkeys((*network.activations(), *network.all_activations()))
    tensors = [name for name in everything if name not in network.border]  # excludes the tensors the decode reads
    if chosen.cache is not None and chosen.cache.exists():
        # A cache of quantize() has ranges of layer inputs only; TensorRT runs tensors without a range in FP16.
        tensors = [name for name in tensors if name in CalibrationCache.read(chosen.cache).thresholds]
    known = calibrate(network, tensors, quantizing.data, chosen.calibration, chosen.cache)
    text = to_tensorrt({name: known.thresholds[name] for name in tensors}, describe_flavor("tensorrt").version)
    implicit = ImplicitInt8(text, None, tuple(sorted(network.nodes)), spec.input.name)
    found = f"implicit INT8 and FP16, {known.method}"
    return Prepared(onnx, replace(described, quantization=found), implicit=implicit)


def _needed(data: Any) -> Any:
    if data is None:
        raise CalibrationError("calibrating: TensorRT's calibrator needs images. Give a folder or a loader.")
    return data
