"""Export of a model to one ONNX file: build, trace, simplify, check, compare with torch, quantize, write."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..choices import ExportTargetBackend
from ..errors import ExportError
from ..files import check_writable
from ..graphs.file import check_suffix, read_spec, save
from ..graphs.finish import finish
from ..limits import release_memory
from ..models.model import Model
from ..progress import step
from ..quantization.quantize import quantize_model
from ..spec import ModelSpec
from .describe import describe
from .graph import DeployGraph, assemble
from .options import ExportOptions
from .plan import ExportPlan, count_anchors, plan_export
from .result import ModelExportResult
from .steps import steps_of
from .trace import attach_weights, output_names, simplify_traced, trace
from .verify import compute_reference, verify

if TYPE_CHECKING:
    from ..models.keypoint_rcnn.network import KeypointRCNN


def export_model(model: Model, output: str | Path, options: ExportOptions | None = None) -> ModelExportResult:
    """Writes one ONNX file with pre- and post-processing; what ``model.export(output, ...)`` calls.

    Args:
        model: the pose or detection model; not modified.
        output: path of the ``.onnx`` file, written atomically.
        options: see :meth:`trt_pose.models.model.Model.export`, whose parameters have the same names.

    Raises:
        UsageError: an option is out of range.
        CalibrationError: the calibration data is missing or invalid.
        ExportError: the export failed, or its outputs differ from torch's.
        MissingDependencyError: onnx or onnxslim is not installed.
    """
    options = (options or ExportOptions()).resolved()
    if model.sizes_itself:
        return _export_rcnn(cast("KeypointRCNN", model), output, options)
    options.refuse(model.name, ("shortest_side", "divisor"))
    check_suffix(output)
    plan = plan_export(model, Path(output), options)
    if plan.through_plugin is not None:
        anchors = count_anchors(model, plan.input)
        steps_of(model).check_trt(model, plan.through_plugin, anchors, plan.input.batch)
    check_writable(plan.output, ExportError)  # before the work, not after
    return run_plan(model, plan)


def _export_rcnn(model: KeypointRCNN, output: str | Path, options: ExportOptions) -> ModelExportResult:
    from .keypoint_rcnn import export_keypoint_rcnn  # imported here: they build on this module
    from .keypoint_rcnn_trt import export_fixed_rcnn

    target = ExportTargetBackend.parse(options.engine or ExportTargetBackend.ONNXRUNTIME, "engine")
    export = export_fixed_rcnn if target is ExportTargetBackend.TENSORRT else export_keypoint_rcnn
    return export(model, output, options)


def run_plan(model: Model, plan: ExportPlan) -> ModelExportResult:
    """Runs an export plan: builds and describes the graph of ``model``, then writes it."""
    with step(f"building the graph of {model.name}"):
        if next(model.parameters()).device != plan.device:
            model = copy.deepcopy(model).to(plan.device)
        graph = _build(model, plan)
        spec = _describe(model, graph, plan)
    return write(graph, spec, plan)


def write(graph: DeployGraph, spec: ModelSpec, plan: ExportPlan, judge: DeployGraph | None = None) -> ModelExportResult:
    """Traces, simplifies, checks, compares and quantizes a graph, and writes the file; the graph loses its weights.

    The file is compared with ``judge``, a graph of the same outputs; None compares it with ``graph``.
    """
    with step("tracing"):
        proto = trace(graph, spec, plan)
    release_memory()
    reference = None
    if plan.verify:
        with step("running torch for the comparison"):
            reference = compute_reference(judge or graph, spec)
    if plan.simplify:
        with step("simplifying"):
            proto = simplify_traced(proto, ", or set onnx_simplify=False (--no-simplify)")
    with step("checking"):
        finish(proto, spec)
        attach_weights(proto, graph, spec)
    if reference is not None:
        with step("comparing ONNX Runtime with torch"):
            verify(reference, proto, spec)
        release_memory()
    report = None
    if plan.quantize is not None:
        proto, report = quantize_model(proto, plan.calibration_data, plan.quantize)
        spec = read_spec(proto)
    save(proto, plan.output)
    return ModelExportResult.of(plan.output, spec, plan.target, report)


def _build(model: Model, plan: ExportPlan) -> DeployGraph:
    finish, selection = plan.postprocess, plan.through_plugin
    return assemble(
        model,
        plan.input.height,
        plan.input.width,
        preprocess=plan.preprocess,
        postprocess=finish if selection is None else steps_of(model).select_trt(model, selection, plan.input.batch),
        selection=plan.selection,
        layout=plan.layout,
    )


def _describe(model: Model, graph: DeployGraph, plan: ExportPlan) -> ModelSpec:
    return describe(
        model,
        plan.selection,
        output_names(graph, plan, model.task),
        inputs=plan.input,
        output_format=plan.output_format,
        plugins=(steps_of(model).operator,) if plan.through_plugin is not None else (),
        digest=True,
    )
