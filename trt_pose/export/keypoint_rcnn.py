"""Export of Keypoint R-CNN to ONNX: torchvision's graph with images of any size and its five outputs."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ExportError, UsageError
from ..files import check_writable
from ..models.keypoint_rcnn.network import OUTPUTS
from ..spec import InputSpec, OutputSpec
from .describe import describe_outputs
from .graph import PoseGraph, copy_modules
from .plan import (
    DEFAULT_CANDIDATES,
    ExportPlan,
    check_suffix,
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


def export_keypoint_rcnn(
    model: KeypointRCNN,
    output: str | Path,
    confidence_threshold: float | None = None,
    nms_threshold: float | None = None,
    *,
    max_predictions_per_image: int | None = None,
    input_image_dtype: Any = None,
    shortest_side: int | None = None,
    divisor: int | None = None,
    device: torch.device | str | None = None,
    onnx_export_kwargs: dict[str, Any] | None = None,
    onnx_simplify: bool = True,
    verification: bool = True,
    **others: Any,
) -> ModelExportResult:
    """Writes an ONNX file that takes one image of any size and has the outputs of torchvision's model.

    Args:
        model: the network; not modified.
        output: path of the ``.onnx`` file, written atomically.
        confidence_threshold: predictions with a higher score are kept; None takes the model's, 0.5 (torchvision's own
            is 0.05).
        nms_threshold: IoU threshold of the final boxes, per class; None takes the model's, 0.5.
        max_predictions_per_image: maximum number of predictions; None takes the model's, 100.
        input_image_dtype: ``uint8`` (the default), divided by 255 in the graph, or ``float32`` in 0..1.
        shortest_side: length, px, to which a runner resizes the shorter side of an image before the network; None
            does not resize. The network itself always resizes (``min_size`` and ``max_size`` of torchvision's model).
        divisor: both sides are rounded to multiples of it after that resize; 1 by default.
        device: torch device to trace on; None takes the model's.
        onnx_export_kwargs: further arguments of ``torch.onnx.export``.
        onnx_simplify: whether to fold constants and remove redundant nodes.
        verification: whether to run the model in ONNX Runtime and compare it with torch on a real image.
        others: options of :func:`trt_pose.export.export_model` that this network lacks; only their defaults are
            accepted.

    Raises:
        UsageError: an option is out of range, or this network does not have it.
        ExportError: the export failed, or its outputs differ from torch's.
    """
    _refuse(others)
    check_suffix(output)
    check_writable(Path(output), ExportError)
    inputs = _plan_input(model.processing.input, input_image_dtype, shortest_side, divisor)
    place = plan_device(device) or next(model.parameters()).device
    if place != next(model.parameters()).device:
        model = copy.deepcopy(model).to(place)
    graph, outputs = _assemble(model, inputs, confidence_threshold, nms_threshold, max_predictions_per_image)
    plan = ExportPlan(
        output=Path(output),
        input=inputs,
        selection=None,
        preprocess=True,
        postprocess=None,
        device=place,
        simplify=onnx_simplify,
        verify=verification,
        exporter_options=plan_exporter(onnx_export_kwargs),
    )
    from .export import write  # imported here: export.py imports the plans of every model family

    return write(graph, describe_outputs(model, inputs, outputs, digest=True), plan)


def make_runner(
    model: KeypointRCNN, confidence: float | None, iou: float | None, limit: int | None, fuse: bool = True
) -> TorchRunner:
    """Returns a torch runner for the network with other thresholds; None takes the model's."""
    inputs = _plan_input(model.processing.input, None, None, None)
    graph, outputs = _assemble(model, inputs, confidence, iou, limit, fuse)
    return TorchRunner(graph, describe_outputs(model, inputs, outputs))


def _refuse(others: dict[str, Any]) -> None:
    from .export import export_model

    known = inspect.signature(export_model).parameters
    same = {"engine": "onnxruntime", "output_predictions_format": "batch"}  # the meaning of None in export_model
    for name, value in others.items():
        if name not in known:
            raise UsageError(f"exporting a Keypoint R-CNN: there is no option {name}. Correct it.")
        if value != known[name].default and str(value) != same.get(name):
            raise UsageError(
                f"exporting a Keypoint R-CNN: it has no {name} (got {value!r}): one image of any size goes in, for ONNX"
                " Runtime, in FP32. Leave it out."
            )


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
) -> tuple[PoseGraph, OutputSpec]:
    """Builds the graph, with folded batch norms if ``fuse``, and the output description; ``model`` is not modified."""
    defaults = model.processing
    network = copy_modules(model).eval()
    if fuse:
        network.fuse()
    heads = network.roi_heads
    heads.score_thresh = check_threshold("confidence_threshold", confidence, defaults.confidence)
    heads.nms_thresh = check_threshold("nms_threshold", iou, defaults.iou)
    most = defaults.max_predictions if limit is None else count("max_predictions_per_image", limit)
    heads.detections_per_img = most
    kept = OutputSpec("rcnn", OUTPUTS, heads.score_thresh, heads.nms_thresh, most, DEFAULT_CANDIDATES)
    return PoseGraph(ToUnit(inputs.white), network, nn.Identity()).eval(), kept
