"""Export of Keypoint R-CNN for ONNX Runtime: torchvision's graph with images of any size and its five outputs."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ExportError, UsageError
from ..files import check_writable
from ..formats import RCNN_OUTPUTS
from ..graphs.file import check_suffix
from ..operators.selection import Selection
from ..spec import InputSpec, OutputSpec
from .describe import describe_outputs
from .export import write
from .graph import DeployGraph, copy_modules
from .options import DEFAULT_CANDIDATES, ExportOptions
from .plan import (
    ExportPlan,
    check_threshold,
    count,
    plan_device,
    plan_element,
    plan_exporter,
)
from .result import ModelExportResult
from .torch_runner import TorchRunner

if TYPE_CHECKING:
    from ..models.keypoint_rcnn.network import KeypointRCNN


class ToUnit(nn.Module):
    """Conversion of (1, 3, H, W) RGB in 0..``white`` to float32 in 0..1."""

    def __init__(self, white: int) -> None:
        super().__init__()
        self.white = white

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return x if self.white == 1 else x / self.white


# The options of an export that this network has.
_KNOWN = {
    "confidence_threshold", "nms_threshold", "max_predictions_per_image", "input_image_dtype", "shortest_side",
    "divisor", "device", "onnx_export_kwargs", "onnx_simplify", "verification",
}  # fmt: skip


def export_keypoint_rcnn(model: KeypointRCNN, output: str | Path, options: ExportOptions) -> ModelExportResult:
    """Writes an ONNX file that takes one image of any size and has the outputs of torchvision's model.

    Args:
        model: the network; not modified.
        output: path of the ``.onnx`` file, written atomically.
        options: the options of the export; those that this network lacks must have their defaults.

    Raises:
        UsageError: an option is out of range, or this network does not have it.
        ExportError: the export failed, or its outputs differ from torch's.
    """
    refuse(options, _KNOWN, "one image of any size goes in, for ONNX Runtime, in FP32")
    check_suffix(output)
    check_writable(Path(output), ExportError)
    inputs = _plan_input(model.processing.input, options.input_image_dtype, options.shortest_side, options.divisor)
    place = plan_device(options.device) or next(model.parameters()).device
    if place != next(model.parameters()).device:
        model = copy.deepcopy(model).to(place)
    graph, outputs = _assemble(
        model, inputs, options.confidence_threshold, options.nms_threshold, options.max_predictions_per_image
    )
    plan = ExportPlan(
        output=Path(output),
        input=inputs,
        selection=None,
        preprocess=True,
        postprocess=None,
        device=place,
        simplify=options.onnx_simplify,
        verify=options.verification,
        exporter_options=plan_exporter(options.onnx_export_kwargs),
    )
    return write(graph, describe_outputs(model, inputs, outputs, digest=True), plan)


def make_runner(
    model: KeypointRCNN, confidence: float | None, iou: float | None, limit: int | None, fuse: bool = True
) -> TorchRunner:
    """Returns a torch runner for the network with other thresholds; None takes the model's."""
    inputs = _plan_input(model.processing.input, None, None, None)
    graph, outputs = _assemble(model, inputs, confidence, iou, limit, fuse)
    return TorchRunner(graph, describe_outputs(model, inputs, outputs))


def refuse(options: ExportOptions, known: Collection[str], what: str) -> None:
    """Raises UsageError when an option other than those ``known`` is set; ``what`` says what the file is."""
    same = {"engine": "onnxruntime", "output_predictions_format": "batch"}  # what the default of None means
    for name, value in options.changed().items():
        if name not in known and str(value) != same.get(name):
            raise UsageError(f"exporting a Keypoint R-CNN: it has no {name} (got {value!r}): {what}. Leave it out.")


def plan_people(model: KeypointRCNN, confidence: float | None, iou: float | None, limit: int | None) -> Selection:
    """Returns the thresholds and the limit of the people; None takes the model's. Raises UsageError out of range."""
    defaults = model.processing
    return Selection(
        confidence=check_threshold("confidence_threshold", confidence, defaults.confidence),
        iou=check_threshold("nms_threshold", iou, defaults.iou),
        candidates=DEFAULT_CANDIDATES,
        limit=defaults.max_predictions if limit is None else count("max_predictions_per_image", limit),
    )


def select_people(network: KeypointRCNN, selection: Selection) -> None:
    """Sets thresholds and limit in the heads of a network, in place."""
    heads = network.roi_heads
    heads.score_thresh, heads.nms_thresh = selection.confidence, selection.iou
    heads.detections_per_img = selection.limit


def _plan_input(policy: InputSpec, dtype: Any, shortest_side: int | None, divisor: int | None) -> InputSpec:
    element = plan_element(dtype, "uint8")
    policy = replace(policy, batch=1, dtype=element, white=255 if element == "uint8" else 1)
    if shortest_side is None:
        if divisor is not None:
            raise UsageError("exporting a Keypoint R-CNN: divisor belongs to shortest_side. Give both.")
        return policy
    side = count("shortest_side", shortest_side)
    return replace(
        policy,
        resize="shortest_side",
        resize_to=(side, side),
        height=side,
        width=side,
        divisor=1 if divisor is None else count("divisor", divisor),
    )


def _assemble(
    model: KeypointRCNN,
    inputs: InputSpec,
    confidence: float | None,
    iou: float | None,
    limit: int | None,
    fuse: bool = True,
) -> tuple[DeployGraph, OutputSpec]:
    """Builds the graph, with folded batch norms if ``fuse``, and the output description; ``model`` is not modified."""
    network = copy_modules(model).eval()
    if fuse:
        network.fuse()
    chosen = plan_people(model, confidence, iou, limit)
    select_people(network, chosen)
    kept = OutputSpec("rcnn", RCNN_OUTPUTS, chosen.confidence, chosen.iou, chosen.limit, chosen.candidates)
    return DeployGraph(ToUnit(inputs.white), network, nn.Identity()).eval(), kept
