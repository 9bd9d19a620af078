"""From a model to one ONNX file: build, trace, simplify, describe, check, compare with torch, write."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from .. import pose_nms
from ..errors import ExportError, MissingDependencyError
from ..files import check_writable
from ..models.model import Model, PoseModel
from ..progress import step
from ..quantize.document import read_spec, save
from ..quantize.model import quantize_model
from ..runtime.base import FLAT_OUTPUTS, batch_outputs, raw_outputs
from ..types import METADATA_KEY, DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend, ModelSpec
from . import efficient_nms
from .graph import PoseGraph, Selection, assemble
from .options import (
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
from .plugin_node import PluginSelect, check_limits
from .result import ModelExportResult
from .spec import describe
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
    """Writes one ONNX file with pre- and post-processing inside; names and defaults of the reference release.

    Args:
        model: the pose model; left as it is.
        output: where to write; the file appears whole or not at all.
        confidence_threshold: keep scores above it; None takes the model's. 0.0 means 0.0.
        nms_threshold: suppress boxes whose IoU with a better one is above it; None takes the model's.
        engine: ``"onnxruntime"`` (the default), or ``"tensorrt"``: one ``PoseNMS_TRT`` plugin node in place of the
            ONNX operators that give TensorRT data-dependent shapes.
        quantization_mode: ``"fp16"`` or ``"int8"`` (with FP16 beside it for TensorRT); decode and NMS stay in FP32.
        selective_quantizer: a :class:`trt_pose.quantize.SelectiveQuantizer`, or names or patterns of layers to leave
            out of INT8.
        calibration_loader: images for INT8: a ``DataLoader``, any iterable of batches, a folder; see
            :func:`trt_pose.quantize.open_batches`. ``"random"`` gives noise, by name only.
        calibration_method: ``"percentile"`` (the default), ``"entropy"``, ``"mse"`` or ``"minmax"``.
        calibration_batches: batches taken, 16 unless given. calibration_percentile: 99.99 unless given.
        preprocessing: True puts cast, channel order and scaling into the graph; False takes the network's own float
            input; a module replaces it.
        postprocessing: True puts NMS into the graph; False returns boxes (B, A, 4), scores (B, A, 1) and joints
            (B, A, J, 3) of every anchor; a module receives that tuple and returns one or more tensors.
        postprocessing_kwargs: overrides any of ``confidence_threshold``, ``nms_threshold``,
            ``max_predictions_per_image``, ``num_pre_nms_predictions``, ``output_predictions_format``.
        batch_size: images per call, or ``"dynamic"``.
        input_image_shape: (height, width), multiples of 32; None takes the model's (640, 640).
        input_image_channels: 3. input_image_dtype: ``uint8`` (with preprocessing) or ``float32``.
        max_predictions_per_image: N; None takes num_pre_nms_predictions.
        onnx_export_kwargs: further arguments of ``torch.onnx.export`` (``opset_version`` is 17 unless given).
        onnx_simplify: fold constants and remove redundant nodes.
        device: where to trace; None takes the model's.
        output_predictions_format: ``"batch"`` or ``"flat"``.
        num_pre_nms_predictions: candidates that enter NMS, best first.
        verification: run the file once in ONNX Runtime and compare with torch on a real image.

    Raises:
        UsageError: an option out of range. CalibrationError: bad calibration data.
        ExportError: the export failed or its outputs differ from torch.
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
            efficient_nms.check_limits(through_plugin, plan.input.batch)
    check_writable(plan.output, ExportError)  # before the work, not after
    return run_plan(model, plan)


def run_plan(model: Model, plan: ExportPlan) -> ModelExportResult:
    """Carries out a plan: the steps of an export, one call each."""
    with step(f"building the graph of {model.name}"):
        if next(model.parameters()).device != plan.device:
            model = copy.deepcopy(model).to(plan.device)
        graph = _build(model, plan)
        spec = _describe(model, graph, plan)
    return write(graph, spec, plan)


def write(graph: PoseGraph, spec: ModelSpec, plan: ExportPlan) -> ModelExportResult:
    """A graph to a file: trace, simplify, check, compare, quantize."""
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
    """The selection the plugin node makes, None where there is no such node."""
    return plan.selection if plan.target is ExportTargetBackend.TENSORRT else None


def _plugin_name(model: Model) -> str:
    return pose_nms.NAME if isinstance(model, PoseModel) else pose_nms.EFFICIENT_NAME


def _build(model: Model, plan: ExportPlan) -> PoseGraph:
    finish = plan.postprocess
    if (through_plugin := _plugin_selection(plan)) is not None:
        if isinstance(model, PoseModel):
            finish = PluginSelect(through_plugin, plan.input.batch, model.num_joints)
        else:
            finish = efficient_nms.EfficientSelect(through_plugin, plan.input.batch)
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
        _output_names(graph, plan, model.task),
        inputs=plan.input,
        output_format="custom" if plan.postprocess is not None else None,
        plugins=(_plugin_name(model),) if _plugin_selection(plan) else (),
        digest=True,
    )


def trace(graph: PoseGraph, spec: ModelSpec, plan: ExportPlan) -> onnx.ModelProto:
    """Traces the graph with torch's TorchScript exporter; the weights stay behind as graph inputs.

    Without weights the later steps handle 0.2 MB instead of 60 (S): they are attached last. The newer ``dynamo``
    exporter needs onnxscript, takes several times as long on these models, and cannot express the two operators of
    operators.py without a translation table.
    """
    example = torch.zeros(plan.example_shape, dtype=plan.dtype, device=plan.device)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation of the exporter, constants recorded by the trace
            torch.onnx.export(
                graph,
                (example,),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                input_names=[spec.input.name],
                output_names=list(spec.output.names),
                dynamic_axes=_dynamic_axes(spec) if plan.dynamic_axes is None else plan.dynamic_axes,
                export_params=_holds_foreign_weights(graph, plan),
                **plan.exporter_options,
            )
    except Exception as error:  # whatever a caller's module raises while it is traced
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"tracing {spec.model}: torch.onnx.export failed: {first}. Check the modules given."
        ) from error
    return onnx.load_model_from_string(buffer.getvalue())


def _holds_foreign_weights(graph: PoseGraph, plan: ExportPlan) -> bool:
    """Whether a module of the caller's may have weights: then all must stay in the trace.

    The exporter transposes and merges the parameters of layers it rewrites (Linear, Conv with batch norm). Our own
    networks are fused; the Linear layers of Keypoint R-CNN come out right, which the check that follows would tell.
    """
    if not isinstance(graph.network, Model):
        return True
    theirs = [module for module in (plan.preprocess, plan.postprocess) if isinstance(module, nn.Module)]
    return any(True for module in theirs for _ in (*module.parameters(), *module.buffers()))


def simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants and removes redundant nodes."""
    try:
        import onnxslim
    except ImportError as error:
        raise MissingDependencyError(
            "simplifying: onnxslim is not installed. Run: pip install 'trt-pose[export]', or set onnx_simplify=False."
        ) from error
    slimmed: onnx.ModelProto = onnxslim.slim(proto)
    return slimmed


def attach_weights(proto: onnx.ModelProto, graph: PoseGraph, spec: ModelSpec) -> None:
    """Turns every graph input but the image into an initializer with the value the graph has for it."""
    values = graph.state_dict()
    kept = [item for item in proto.graph.input if item.name == spec.input.name]
    weights = [item.name for item in proto.graph.input if item.name != spec.input.name]
    used = {name for node in proto.graph.node for name in node.input}  # none are left where trace() kept the weights in
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for name in weights:
        if name in used:
            proto.graph.initializer.append(numpy_helper.from_array(values[name].cpu().numpy(), name))


def finish(proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Writes the description into the file and checks the graph. Raises ExportError when the checker complains."""
    if spec.output.format == "flat":  # the tracer loses the width where the batch is symbolic
        width = proto.graph.output[0].type.tensor_type.shape.dim[1]
        width.dim_value = 7 if spec.task == "detection" else 6 + 3 * spec.skeleton.num_joints
    # A plugin's outputs that nothing reads are left without a type by the simplifier, which the checker refuses.
    typed = [item for item in proto.graph.value_info if item.type.tensor_type.elem_type]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(typed)
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=spec.to_json())
    proto.producer_name = "trt_pose"
    proto.producer_version = spec.generator.rpartition(" ")[2]
    proto.graph.name = spec.model
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = (str(error).strip().splitlines() or ["unknown"])[0]
        raise ExportError(f"checking the ONNX graph of {spec.model}: {first}. Please report this.") from error


def _output_names(graph: PoseGraph, plan: ExportPlan, task: str) -> tuple[str, ...]:
    if plan.selection is not None:
        return FLAT_OUTPUTS if plan.selection.flat else batch_outputs(task)
    if plan.postprocess is None:
        return raw_outputs(task)
    with torch.inference_mode():
        outputs = graph(torch.zeros(plan.example_shape, dtype=plan.dtype, device=plan.device))
    if isinstance(outputs, torch.Tensor):
        return ("output",)
    return tuple(f"output_{index}" for index in range(len(outputs)))


def _dynamic_axes(spec: ModelSpec) -> dict[str, dict[int, str]]:
    if spec.input.takes_any_size:
        return {spec.input.name: {2: "height", 3: "width"}, **{name: {0: "predictions"} for name in spec.output.names}}
    if spec.output.format == "flat":
        axes = {name: {0: "predictions"} for name in spec.output.names}
    else:
        axes = {} if spec.input.batch else {name: {0: "batch"} for name in spec.output.names}
    return axes if spec.input.batch else {spec.input.name: {0: "batch"}, **axes}
