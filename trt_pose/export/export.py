"""Export of a model to one ONNX file: build, trace, simplify, check, compare with torch, quantize, write."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..choices import DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend
from ..errors import ExportError
from ..files import check_writable
from ..graphs.file import read_spec, save
from ..models.model import Model, PoseModel
from ..nms import contract
from ..progress import step
from ..quantization.quantize import quantize_model
from ..spec import ModelSpec
from . import select_detection_trt
from .describe import describe
from .graph import PoseGraph, assemble
from .plan import (
    DEFAULT_CANDIDATES,
    ExportPlan,
    check_steps,
    check_suffix,
    plan_device,
    plan_exporter,
    plan_input,
    plan_quantization,
    plan_selection,
)
from .result import ModelExportResult
from .select import Selection
from .select_pose_trt import PluginSelect, check_limits
from .trace import attach_weights, finish, output_names, simplify, trace
from .verify import verify


def export_model(
    model: Model,
    output: str | Path,
    confidence_threshold: float | None = None,
    nms_threshold: float | None = None,
    engine: str | ExportTargetBackend | None = None,
    quantization_mode: str | ExportQuantizationMode | None = None,
    selective_quantizer: Any = None,
    calibration_loader: Any = None,
    calibration_method: str | None = None,
    calibration_batches: int | None = None,
    calibration_percentile: float | None = None,
    preprocessing: bool | nn.Module = True,
    postprocessing: bool | nn.Module = True,
    postprocessing_kwargs: dict[str, Any] | None = None,
    batch_size: int | str = 1,
    input_image_shape: tuple[int, int] | int | None = None,
    input_image_channels: int | None = None,
    input_image_dtype: Any = None,
    max_predictions_per_image: int | None = None,
    onnx_export_kwargs: dict[str, Any] | None = None,
    onnx_simplify: bool = True,
    device: torch.device | str | None = None,
    output_predictions_format: str | DetectionOutputFormatMode | None = None,
    num_pre_nms_predictions: int = DEFAULT_CANDIDATES,
    verification: bool = True,
) -> ModelExportResult:
    """Writes one ONNX file with pre- and post-processing; argument names and defaults follow super-gradients.

    Args:
        model: the pose or detection model; not modified.
        output: path of the ``.onnx`` file, written atomically.
        confidence_threshold: predictions with a higher score are kept, 0..1 (0.0 is valid); None takes the model's.
        nms_threshold: boxes whose IoU with a better box is higher are suppressed, 0..1; None takes the model's.
        engine: ``"onnxruntime"`` (the default) or ``"tensorrt"``, which uses one plugin node (``PoseNMS_TRT`` for pose
            models) instead of ONNX operators with data-dependent shapes.
        quantization_mode: ``"fp16"`` or ``"int8"`` (for TensorRT: INT8 and FP16); decode and NMS stay in FP32. None
            exports FP32.
        selective_quantizer: a :class:`trt_pose.quantization.SelectiveQuantizer`, or names or patterns of layers to
            exclude from INT8.
        calibration_loader: images for INT8: a ``DataLoader``, any iterable of batches, or a folder; see
            :func:`trt_pose.quantization.open_batches`. ``"random"`` calibrates on noise.
        calibration_method: ``"percentile"`` (the default), ``"entropy"``, ``"mse"`` or ``"minmax"``.
        calibration_batches: number of batches to use, by default 16.
        calibration_percentile: percentile of the ``"percentile"`` method, by default 99.99.
        preprocessing: True puts cast, channel order and scaling into the graph. False makes the graph take the
            network's own float input. A module replaces the default steps.
        postprocessing: True puts NMS into the graph. False outputs boxes (B, A, 4), scores (B, A, 1) and joints
            (B, A, J, 3) of every anchor; for a detection model boxes (B, A, 4) and scores (B, A, K). A module takes
            that tuple and returns one or more tensors.
        postprocessing_kwargs: overrides for any of ``confidence_threshold``, ``nms_threshold``,
            ``max_predictions_per_image``, ``num_pre_nms_predictions``, ``output_predictions_format``.
        batch_size: images per call, or ``"dynamic"``.
        input_image_shape: (height, width) px, multiples of the largest stride (32); None takes the model's.
        input_image_channels: 3; any value other than the model's is an error.
        input_image_dtype: ``uint8`` (the default with preprocessing) or ``float32``.
        max_predictions_per_image: maximum number N of predictions; None takes ``num_pre_nms_predictions``.
        onnx_export_kwargs: further arguments of ``torch.onnx.export`` (``opset_version`` is 17 by default).
        onnx_simplify: whether to fold constants and remove redundant nodes.
        device: torch device to trace on; None takes the model's.
        output_predictions_format: ``"batch"`` or ``"flat"``.
        num_pre_nms_predictions: maximum number of candidates that enter NMS, best first.
        verification: whether to run the model in ONNX Runtime and compare it with torch on a real image.

    Raises:
        UsageError: an option is out of range.
        CalibrationError: the calibration data is missing or invalid.
        ExportError: the export failed, or its outputs differ from torch's.
        MissingDependencyError: onnx or onnxslim is not installed.
    """
    calibration = {
        "selective_quantizer": selective_quantizer,
        "calibration_loader": calibration_loader,
        "calibration_method": calibration_method,
        "calibration_batches": calibration_batches,
        "calibration_percentile": calibration_percentile,
    }
    target = ExportTargetBackend.parse(engine or ExportTargetBackend.ONNXRUNTIME)
    quantize = plan_quantization(quantization_mode, target, calibration)
    choices: dict[str, Any] = {
        "confidence_threshold": confidence_threshold,
        "nms_threshold": nms_threshold,
        "max_predictions_per_image": max_predictions_per_image,
        "num_pre_nms_predictions": num_pre_nms_predictions,
        "output_predictions_format": output_predictions_format,
    }
    unknown = set(postprocessing_kwargs or {}) - set(choices)
    if unknown:
        raise ExportError(
            f"postprocessing_kwargs: got {', '.join(sorted(unknown))}, expected some of"
            f" {', '.join(choices)}. Correct it."
        )
    choices.update(postprocessing_kwargs or {})
    check_suffix(output)
    check_steps(preprocessing, postprocessing)
    inputs = plan_input(model, input_image_shape, input_image_channels, input_image_dtype, batch_size, preprocessing)
    anchors = sum((inputs.height // stride) * (inputs.width // stride) for stride in model.strides)
    selection = plan_selection(model, anchors, choices)
    plan = ExportPlan(
        output=Path(output),
        input=inputs,
        selection=selection if postprocessing is True else None,
        preprocess=preprocessing,
        postprocess=postprocessing if isinstance(postprocessing, nn.Module) else None,
        device=plan_device(device) or next(model.parameters()).device,
        target=target,
        simplify=onnx_simplify,
        verify=verification,
        exporter_options=plan_exporter(onnx_export_kwargs),
        quantize=quantize,
        calibration_data=calibration_loader,
    )
    if (through_plugin := _plugin_selection(plan)) is not None:
        if isinstance(model, PoseModel):
            check_limits(through_plugin, anchors, model.num_joints)
        else:
            select_detection_trt.check_limits(through_plugin, plan.input.batch)
    check_writable(plan.output, ExportError)  # fail before the export, not after it
    return run_plan(model, plan)


def run_plan(model: Model, plan: ExportPlan) -> ModelExportResult:
    """Runs an export plan: builds and describes the graph of ``model``, then writes it."""
    with step(f"building the graph of {model.name}"):
        if next(model.parameters()).device != plan.device:
            model = copy.deepcopy(model).to(plan.device)
        graph = _build(model, plan)
        spec = _describe(model, graph, plan)
    return write(graph, spec, plan)


def write(graph: PoseGraph, spec: ModelSpec, plan: ExportPlan) -> ModelExportResult:
    """Traces, simplifies, checks, compares and quantizes a graph, and writes the file."""
    with step("tracing"):
        proto = trace(graph, spec, plan)
    if plan.simplify:
        with step("simplifying"):
            proto = simplify(proto)
    with step("checking"):
        finish(proto, spec)
        attach_weights(proto, graph, spec)
    if plan.verify:
        with step("comparing ONNX Runtime with torch"):
            verify(graph, proto, spec)
    report = None
    if plan.quantize is not None:
        proto, report = quantize_model(proto, plan.calibration_data, plan.quantize)
        spec = read_spec(proto)
    save(proto, plan.output)
    return ModelExportResult.of(plan.output, spec, plan.target, report)


def _plugin_selection(plan: ExportPlan) -> Selection | None:
    """Returns the selection of the plugin node; None when the graph has no plugin node."""
    return plan.selection if plan.target is ExportTargetBackend.TENSORRT else None


def _plugin_name(model: Model) -> str:
    return contract.NAME if isinstance(model, PoseModel) else contract.EFFICIENT_NAME


def _build(model: Model, plan: ExportPlan) -> PoseGraph:
    finish = plan.postprocess
    if (through_plugin := _plugin_selection(plan)) is not None:
        if isinstance(model, PoseModel):
            finish = PluginSelect(through_plugin, plan.input.batch, model.num_joints)
        else:
            finish = select_detection_trt.EfficientSelect(through_plugin, plan.input.batch)
    return assemble(
        model,
        plan.input.height,
        plan.input.width,
        preprocess=plan.preprocess,
        postprocess=finish,
        selection=plan.selection,
    )


def _describe(model: Model, graph: PoseGraph, plan: ExportPlan) -> ModelSpec:
    return describe(
        model,
        plan.selection,
        output_names(graph, plan, model.task),
        inputs=plan.input,
        output_format="custom" if plan.postprocess is not None else None,
        plugins=(_plugin_name(model),) if _plugin_selection(plan) else (),
        digest=True,
    )
