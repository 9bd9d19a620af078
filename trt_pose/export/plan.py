"""Checks of the export options, resolved against a model before the export starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..choices import (
    CalibrationMethod,
    DetectionOutputFormatMode,
    ExportQuantizationMode,
    ExportTargetBackend,
    Precision,
)
from ..errors import UsageError, first_line
from ..limits import check_memory
from ..operators.selection import Selection
from ..quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer
from ..quantization.batches import DEFAULT_BATCHES
from ..quantization.calibrate import DEFAULT_PERCENTILE
from ..spec import InputSpec
from .options import DEFAULT_CANDIDATES, ExportOptions

if TYPE_CHECKING:
    from ..models.model import Model


DYNAMIC = "dynamic"
# TensorRT 10.3 to 11.x parse opset 17. From opset 19 on ONNX Runtime's CUDA provider lacks kernels for some operators.
DEFAULT_OPSET = 17
# Memory for each pixel that the smallest network takes in a trace; the larger ones take ten times as much.
_TRACED_BYTES = 200
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


@dataclass(frozen=True)
class ExportPlan:
    """The resolved options of one export; see :func:`trt_pose.export.export_model` for their meaning.

    ``selection`` is None when the graph contains no selection. ``dynamic_axes`` is None to derive the axes from the
    description.
    """

    output: Path
    input: InputSpec
    selection: Selection | None
    preprocess: bool | nn.Module
    postprocess: nn.Module | None
    device: torch.device
    target: ExportTargetBackend = ExportTargetBackend.ONNXRUNTIME
    simplify: bool = True
    verify: bool = True
    exporter_options: Mapping[str, Any] = field(default_factory=dict)
    layout: DetectionOutputFormatMode = DetectionOutputFormatMode.BATCH_FORMAT
    quantize: QuantizeOptions | None = None
    calibration_data: Any = None
    dynamic_axes: Mapping[str, Any] | None = None

    @property
    def through_plugin(self) -> Selection | None:
        """The selection that a plugin node makes; None when the file has no such node."""
        return self.selection if self.target is ExportTargetBackend.TENSORRT else None

    @property
    def output_format(self) -> str:
        """Name of the output format."""
        if self.postprocess is not None:
            return "custom"
        return str(self.layout) if self.selection else "raw"

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """Shape (B, C, H, W) of the images the graph is traced with."""
        # Two images for a symbolic batch: with one image the tracer would treat the axis as constant.
        return self.input.batch or 2, self.input.channels, self.input.height, self.input.width

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.input.dtype]


def plan_export(model: Model, output: Path, options: ExportOptions) -> ExportPlan:
    """Checks the options against a model and returns what the export will do.

    Raises:
        UsageError: an option is out of range, or does not go with another.
    """
    target = ExportTargetBackend.parse(options.engine or ExportTargetBackend.ONNXRUNTIME, "engine")
    quantize = plan_quantization(target, options)
    check_steps(options.preprocessing, options.postprocessing)
    inputs = plan_input(model.processing.input, max(model.strides), model.name, options)
    check_tracing(inputs)
    selection = plan_selection(model, count_anchors(model, inputs), options)
    post, formats = options.postprocessing, DetectionOutputFormatMode
    return ExportPlan(
        output=output,
        input=inputs,
        selection=selection if post is True else None,
        preprocess=options.preprocessing,
        postprocess=post if isinstance(post, nn.Module) else None,
        device=plan_device(options.device) or next(model.parameters()).device,
        target=target,
        simplify=options.onnx_simplify,
        verify=options.verification,
        exporter_options=plan_exporter(options.onnx_export_kwargs),
        layout=formats.parse(options.output_predictions_format or formats.BATCH_FORMAT, "output_predictions_format"),
        quantize=quantize,
        calibration_data=calibration_data(quantize, options),
    )


def check_tracing(inputs: InputSpec) -> None:
    """Raises UsageError when the memory does not suffice for a trace with images of this size and number."""
    batch = inputs.batch or 2
    pixels = batch * inputs.height * inputs.width
    what = f"input_image_shape, batch_size: {batch} images of {inputs.height} x {inputs.width}"
    check_memory(pixels * _TRACED_BYTES, what, UsageError)


def count_anchors(model: Model, inputs: InputSpec) -> int:
    """Returns the number of anchors of an input size."""
    return sum((inputs.height // stride) * (inputs.width // stride) for stride in model.strides)


def check_threshold(name: str, value: float | None, default: float) -> float:
    """Returns ``value``, or ``default`` when it is None. Raises UsageError outside 0..1."""
    chosen = default if value is None else value
    if isinstance(chosen, bool) or not isinstance(chosen, Real) or not 0.0 <= chosen <= 1.0:
        raise UsageError(f"{name}: got {chosen!r}, expected a number from 0 to 1.")
    return float(chosen)


_INT8_ONLY = (
    "selective_quantizer",
    "calibration_loader",
    "calibration_method",
    "calibration_batches",
    "calibration_percentile",
)


def plan_quantization(target: ExportTargetBackend, options: ExportOptions) -> QuantizeOptions | None:
    """Returns how the file is quantized after the export; None for FP32.

    For TensorRT, INT8 is combined with FP16, which gives the fastest engine.

    Raises:
        UsageError: calibration options were given without INT8.
    """
    given = [name for name in _INT8_ONLY if getattr(options, name) is not None]
    asked = options.quantization_mode
    mode = None if asked is None else ExportQuantizationMode.parse(asked, "quantization_mode")
    if mode is not ExportQuantizationMode.INT8:
        if given:
            raise UsageError(f"exporting: {', '.join(given)} belong to quantization_mode INT8. Leave them out.")
        return None if mode is None else QuantizeOptions(Precision.FP16)
    method = CalibrationMethod.parse(options.calibration_method or CalibrationMethod.PERCENTILE, "calibration_method")
    percentile, batches = options.calibration_percentile, options.calibration_batches
    return QuantizeOptions(
        precision=Precision.INT8_FP16 if target is ExportTargetBackend.TENSORRT else Precision.INT8,
        calibration=CalibrationOptions(
            method=method,
            percentile=DEFAULT_PERCENTILE if percentile is None else percentile,
            batches=DEFAULT_BATCHES if batches is None else count("calibration_batches", batches),
        ),
        selective=SelectiveQuantizer.of(options.selective_quantizer),
    )


def calibration_data(quantize: QuantizeOptions | None, options: ExportOptions) -> Any:
    """Returns the images for INT8. Without any it is noise, as in super-gradients; quantizing warns of it."""
    wanted = quantize is not None and quantize.precision in (Precision.INT8, Precision.INT8_FP16)
    return "random" if wanted and options.calibration_loader is None else options.calibration_loader


def check_steps(preprocessing: Any, postprocessing: Any) -> None:
    """Raises UsageError unless both steps are True, False or a module."""
    for name, value in (("preprocessing", preprocessing), ("postprocessing", postprocessing)):
        if not isinstance(value, (bool, nn.Module)):
            raise UsageError(f"{name}: got {value!r}, expected True, False or a torch module.")


def plan_device(device: torch.device | str | None) -> torch.device | None:
    """Returns the requested device; None for None. Raises UsageError when torch cannot use it."""
    if device is None:
        return None
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = first_line(error)
        raise UsageError(f"device: got {device!r}, which torch cannot use here: {reason}. Use 'cpu'.") from error
    return chosen


def plan_selection(model: Model, anchors: int, options: ExportOptions) -> Selection:
    """Returns the thresholds and limits of the file.

    Limits above the number of anchors are lowered, with a warning unless they are the defaults.

    Raises:
        UsageError: a threshold or limit is out of range.
    """
    candidates = count("num_pre_nms_predictions", options.num_pre_nms_predictions)
    limit = options.max_predictions_per_image
    limit = candidates if limit is None else count("max_predictions_per_image", limit)
    if candidates > anchors:
        if candidates != DEFAULT_CANDIDATES:
            warnings.warn(
                f"num_pre_nms_predictions={candidates} is more than the {anchors} anchors of this input size: lowered.",
                stacklevel=4,
            )
        candidates = anchors
    if limit > candidates:
        if options.max_predictions_per_image is not None:
            warnings.warn(
                f"max_predictions_per_image={limit} is more than the {candidates} candidates: lowered.", stacklevel=4
            )
        limit = candidates
    return Selection(
        confidence=check_threshold("confidence_threshold", options.confidence_threshold, model.processing.confidence),
        iou=check_threshold("nms_threshold", options.nms_threshold, model.processing.iou),
        candidates=candidates,
        limit=limit,
    )


def plan_input(policy: InputSpec, stride: int, name: str, options: ExportOptions) -> InputSpec:
    """Returns the description of the network input: size, element type and batch.

    Args:
        policy: the model's own.
        stride: height and width must be multiples of it, px.
        name: name of the model.
        options: the options of the export.

    Raises:
        UsageError: the shape, channels, element type or batch are not supported.
    """
    shape, channels = options.input_image_shape, options.input_image_channels
    batch_size, preprocessing = options.batch_size, options.preprocessing
    if shape is not None:
        height, width = (int(shape), int(shape)) if isinstance(shape, Integral) else _pair(shape)
        check_sides(height, width, stride)
        policy = policy.with_size(height, width)
    if channels not in (None, policy.channels):
        raise UsageError(f"input_image_channels: got {channels}, {name} takes {policy.channels}. Leave it out.")
    element = plan_element(options.input_image_dtype, "uint8" if preprocessing else "float32")
    if not preprocessing and element == "uint8":
        raise UsageError(
            "input_image_dtype: uint8 needs preprocessing in the graph. Use float32 or preprocessing=True."
        )
    if options.pad_value is not None:
        if not 0 <= options.pad_value <= 255:
            raise UsageError(f"pad_value: got {options.pad_value}, expected 0 to 255.")
        policy = replace(policy, pad_value=options.pad_value)
    return replace(
        policy,
        batch=None if batch_size == DYNAMIC else count("batch_size", batch_size, hint=" or 'dynamic'"),
        dtype=element,
        normalized_in_graph=bool(preprocessing),
        custom_preprocessing=isinstance(preprocessing, nn.Module),
    )


def check_sides(height: int, width: int, stride: int) -> None:
    """Raises UsageError unless ``height`` and ``width``, px, are positive multiples of ``stride``."""
    if min(height, width) < stride or height % stride or width % stride:
        raise UsageError(
            f"input_image_shape: got {height} x {width}, expected positive multiples of {stride}."
            f" Use {_near(height, stride)} x {_near(width, stride)}."
        )


def plan_exporter(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the keyword arguments for ``torch.onnx.export`` with the default opset filled in.

    Raises:
        UsageError: an argument the export sets itself, or an opset outside 16..20.
    """
    given = dict(options or {})
    own = ("model", "args", "f", "dynamo", "input_names", "output_names", "dynamic_axes", "export_params")
    refused = set(own) & set(given)
    if refused:
        raise UsageError(
            f"onnx_export_kwargs: {', '.join(sorted(refused))} are set by the export itself. Leave them out."
        )
    opset = given.setdefault("opset_version", DEFAULT_OPSET)
    if not isinstance(opset, int) or not 16 <= opset <= 20:
        raise UsageError(f"onnx_export_kwargs: got opset_version={opset!r}, expected 16..20. Use {DEFAULT_OPSET}.")
    return given


def count(name: str, value: Any, hint: str = "") -> int:
    """Returns ``value`` as an int. Raises UsageError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UsageError(f"{name}: got {value!r}, expected a whole number from 1{hint}.")
    return int(value)


def _pair(shape: Any) -> tuple[int, int]:
    if isinstance(shape, str) or not hasattr(shape, "__len__") or len(shape) != 2:
        raise UsageError(f"input_image_shape: got {shape!r}, expected (height, width).")
    if not all(isinstance(size, Integral) for size in shape):
        raise UsageError(f"input_image_shape: got {shape!r}, expected whole numbers.")
    return int(shape[0]), int(shape[1])


def _near(size: int, stride: int) -> int:
    return max(round(size / stride), 1) * stride


def plan_element(dtype: Any, default: str) -> str:
    """Returns the NumPy name of the element type of the input. Raises UsageError unless it is uint8 or float32."""
    if dtype is None:
        return default
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    name = "float32" if name == "float" else name
    if isinstance(dtype, type):
        name = dtype.__name__
    if name not in ("uint8", "float32"):
        raise UsageError(f"input_image_dtype: got {name}, expected uint8 or float32.")
    return name
