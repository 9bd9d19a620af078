"""Export of Keypoint R-CNN for TensorRT: images of one size, the batch format, plugin nodes in place of NMS."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from ..choices import ExportTargetBackend
from ..errors import ExportError, UsageError
from ..files import check_writable
from ..formats import FORMATS
from ..graphs.file import check_suffix
from ..limits import check_memory
from ..operators.contract import DETECTION_NAME, KEYPOINT_NAME, MAX_CANDIDATES, MAX_OUTPUTS, MAX_ROWS
from ..operators.selection import Selection
from ..progress import step
from ..spec import InputSpec, Normalization
from ..tasks import TASKS
from .describe import describe
from .export import write
from .fixed_rcnn import FixedKeypointRCNN, OneByOne
from .graph import DeployGraph, copy_modules
from .keypoint_rcnn import ToUnit, plan_people, refuse, select_people
from .options import ExportOptions
from .plan import (
    ExportPlan,
    calibration_data,
    check_tracing,
    plan_device,
    plan_exporter,
    plan_input,
    plan_quantization,
)
from .preprocess import Normalize
from .result import ModelExportResult

if TYPE_CHECKING:
    from ..models.keypoint_rcnn.network import KeypointRCNN

STRIDE = 32
# The options of such an export.
_KNOWN = {
    "engine", "confidence_threshold", "nms_threshold", "max_predictions_per_image", "input_image_shape", "batch_size",
    "input_image_channels", "input_image_dtype", "pad_value", "quantization_mode", "selective_quantizer",
    "calibration_loader", "calibration_method", "calibration_batches", "calibration_percentile", "device",
    "onnx_export_kwargs", "onnx_simplify", "verification",
}  # fmt: skip


def export_fixed_rcnn(model: KeypointRCNN, output: str | Path, options: ExportOptions) -> ModelExportResult:
    """Writes an ONNX file for images of one size, whose outputs are those of the batch format.

    The images are not resized inside. The file is compared with torchvision's own network on images of that size.

    Args:
        model: the network; not modified.
        output: path of the ``.onnx`` file, written atomically.
        options: the options of the export; those that such a file lacks must have their defaults.

    Raises:
        UsageError: an option is out of range, or such a file does not have it.
        CalibrationError: the calibration data is missing or invalid.
        ExportError: the export failed, or its outputs differ from torchvision's.
    """
    refuse(options, _KNOWN, "images of one size go in, and the batch format comes out")
    check_suffix(output)
    network = copy_modules(model).eval()
    plan = _plan(network, Path(output), options)
    check_writable(plan.output, ExportError)
    with step(f"building the graph of {model.name}"):
        if next(network.parameters()).device != plan.device:
            network = copy.deepcopy(network).to(plan.device)
        network.fuse()
        graph, judge = _assemble(network, plan)
        names = FORMATS["batch"].names(TASKS[model.task])
        operators = (DETECTION_NAME, KEYPOINT_NAME)
        spec = describe(model, plan.selection, names, inputs=plan.input, plugins=operators, digest=True)
    return write(graph, spec, plan, judge)


def _plan(model: KeypointRCNN, output: Path, options: ExportOptions) -> ExportPlan:
    if options.input_image_shape is None:
        raise UsageError(
            f"exporting {model.name} for TensorRT: an engine takes images of one size. Give input_image_shape, such as"
            " (800, 1088), on which it was trained."
        )
    target = ExportTargetBackend.TENSORRT
    quantize = plan_quantization(target, options)
    inputs = plan_input(_policy(model), STRIDE, model.name, options)
    if inputs.batch is None:
        raise UsageError(f"exporting {model.name} for TensorRT: batch_size is fixed in such a file. Give a number.")
    check_tracing(inputs)
    selection = _plan_selection(model, inputs.batch, options)
    heads, people, proposals = model.roi_heads, selection.limit, model.rpn.post_nms_top_n()
    rows = max(
        count * (pool.output_size[0] * max(pool.sampling_ratio, 1)) ** 2
        for count, pool in ((proposals, heads.box_roi_pool), (people, heads.keypoint_roi_pool))
    )
    what = f"batch_size, max_predictions_per_image: {inputs.batch} images of {proposals} proposals and {people} people"
    check_memory(inputs.batch * rows * model.backbone.out_channels * 4, what, UsageError)
    return ExportPlan(
        output=output,
        input=inputs,
        selection=selection,
        preprocess=True,
        postprocess=None,
        device=plan_device(options.device) or next(model.parameters()).device,
        target=target,
        simplify=options.onnx_simplify,
        verify=options.verification,
        exporter_options=plan_exporter(options.onnx_export_kwargs),
        quantize=quantize,
        calibration_data=calibration_data(quantize, options),
    )


def _policy(model: KeypointRCNN) -> InputSpec:
    mean, std = (
        [round(255 * share, 6) for share in part] for part in (model.transform.image_mean, model.transform.image_std)
    )
    return InputSpec(
        height=STRIDE,
        width=STRIDE,
        resize_to=(STRIDE, STRIDE),
        pad_value=round(sum(mean) / 3),  # the grey nearest to torchvision's padding: zeros after the normalization
        normalization=Normalization("RGB", (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
    )


def _plan_selection(model: KeypointRCNN, batch: int, options: ExportOptions) -> Selection:
    asked = (options.confidence_threshold, options.nms_threshold, options.max_predictions_per_image)
    selection, most = plan_people(model, *asked), min(MAX_OUTPUTS, MAX_ROWS // batch)
    if selection.limit > most:
        raise UsageError(
            f"exporting {model.name} for TensorRT: max_predictions_per_image is {selection.limit}, its operators"
            f" take {most} at batch {batch}. Lower it."
        )
    return replace(selection, candidates=min(MAX_CANDIDATES, model.rpn.post_nms_top_n() * (model.num_classes - 1)))


def _assemble(network: KeypointRCNN, plan: ExportPlan) -> tuple[DeployGraph, DeployGraph]:
    """Returns the graph to export, and torchvision's own to compare it with; both use the modules of ``network``."""
    inputs, selection = plan.input, cast("Selection", plan.selection)
    select_people(network, selection)
    fixed = FixedKeypointRCNN(network, inputs.height, inputs.width, selection)
    judge = OneByOne(network, inputs.height, inputs.width, selection.limit)
    graph = DeployGraph(Normalize(inputs.normalization), fixed, nn.Identity())
    return graph.to(plan.device).eval(), DeployGraph(ToUnit(inputs.white), judge, nn.Identity()).eval()
