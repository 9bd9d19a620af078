"""Export of any torch module to ONNX, with the same steps as for the models of this package."""

from __future__ import annotations

import copy
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..errors import ExportError, UsageError, first_line
from ..files import check_writable
from ..graphs.file import check_suffix
from ..models.model import Model
from ..spec import InputSpec, ModelSpec, Normalization, OutputSpec
from .export import write
from .graph import DeployGraph
from .plan import ExportPlan, plan_device, plan_element, plan_exporter
from .result import ModelExportResult


def convert_to_onnx(
    model: nn.Module,
    out_path: str | Path,
    input_size: tuple[int, ...],
    pre_process: nn.Module | None = None,
    post_process: nn.Module | None = None,
    *,
    input_dtype: Any = None,
    simplify: bool = True,
    verification: bool = True,
    device: torch.device | str | None = None,
    **torch_onnx_export_kwargs: Any,
) -> ModelExportResult:
    """Writes ``post_process(model(pre_process(x)))`` to an ONNX file, checks it and compares it with torch.

    The modules are copied and put into evaluation mode; a model of this package is also fused. ``pre_process`` takes
    the image, and ``post_process`` takes what the model returns. The last module must return a tensor or a tuple of
    tensors.

    Args:
        model: a module with one input.
        out_path: path of the ``.onnx`` file, written atomically.
        input_size: (B, C, H, W), (C, H, W) or (H, W); B defaults to 1 and C to 3.
        pre_process: module applied before the model; None for none.
        post_process: module applied after the model; None for none.
        input_dtype: ``float32`` (the default) or ``uint8``.
        simplify: whether to fold constants and remove redundant nodes.
        verification: whether to run the model in ONNX Runtime and compare its outputs with torch's.
        device: torch device to trace on; None takes the model's.
        torch_onnx_export_kwargs: arguments of ``torch.onnx.export``: ``opset_version``, ``input_names`` (exactly one),
            ``output_names``, ``dynamic_axes``, ...

    Raises:
        UsageError: an option is out of range.
        ExportError: the export failed, or its outputs differ from torch's.
    """
    for name, module in (("model", model), ("pre_process", pre_process), ("post_process", post_process)):
        if not isinstance(module, nn.Module) and (name == "model" or module is not None):
            raise UsageError(f"converting to ONNX: {name} is {type(module).__name__}, expected a torch module.")
    check_suffix(out_path)
    check_writable(Path(out_path), ExportError)
    names = torch_onnx_export_kwargs.pop("input_names", None) or ["input"]
    if len(names) != 1:
        raise UsageError(f"converting to ONNX: got input_names {names}, expected one. Wrap the model in a module.")
    output_names = torch_onnx_export_kwargs.pop("output_names", None)
    dynamic_axes = torch_onnx_export_kwargs.pop("dynamic_axes", None) or {}
    given = next((item for item in (*model.parameters(), *model.buffers())), torch.empty(0))
    place = plan_device(device) or given.device
    graph = _chain(model, pre_process, post_process).to(place)
    inputs = _plan_input(input_size, names[0], plan_element(input_dtype, "float32"), dynamic_axes)
    plan = ExportPlan(
        output=Path(out_path),
        input=inputs,
        selection=None,
        preprocess=graph.preprocess,
        postprocess=graph.postprocess,
        device=place,
        simplify=simplify,
        verify=verification,
        exporter_options=plan_exporter(torch_onnx_export_kwargs),
        dynamic_axes=dynamic_axes,
    )
    found = _name_outputs(graph, plan)
    if output_names is not None and len(output_names) != len(found):
        raise UsageError(
            f"converting to ONNX: got output_names {list(output_names)}, the last step returns {len(found)} tensors."
            " Name each of them."
        )
    outputs = OutputSpec("custom", tuple(output_names or found))
    name = model.name if isinstance(model, Model) else type(model).__name__
    spec = ModelSpec(name, "custom", inputs, outputs, weights="given", generator=f"trt_pose {__version__}")
    return write(graph, spec, plan)


def _chain(model: nn.Module, before: nn.Module | None, after: nn.Module | None) -> DeployGraph:
    network = copy.deepcopy(model).eval()
    if isinstance(network, Model):
        network.fuse()
    first, last = (nn.Identity() if step is None else copy.deepcopy(step) for step in (before, after))
    return DeployGraph(first, network, last).eval()


def _plan_input(size: tuple[int, ...], name: str, element: str, dynamic: Any) -> InputSpec:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if not 2 <= len(sides) <= 4 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise UsageError(f"input_size: got {size!r}, expected (B, C, H, W), (C, H, W) or (H, W).")
    batch, channels, height, width = (*(1, 3)[: 4 - len(sides)], *sides)
    axes = dynamic.get(name, ())
    return InputSpec(
        name=name,
        batch=None if 0 in axes else int(batch),
        height=int(height),
        width=int(width),
        channels=int(channels),
        dtype=element,
        resize="stretch",
        resize_to=(int(height), int(width)),
        normalization=Normalization("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        normalized_in_graph=element == "uint8",
        custom_preprocessing=True,
    )


def _name_outputs(graph: nn.Module, plan: ExportPlan) -> tuple[str, ...]:
    with torch.inference_mode():
        try:
            outputs = graph(torch.zeros(plan.example_shape, dtype=plan.dtype, device=plan.device))
        except Exception as error:  # a caller's module may raise anything
            first = first_line(error)
            raise ExportError(
                f"running the model on {plan.example_shape} {plan.input.dtype}: {type(error).__name__}: {first}."
                " Check input_size, input_dtype and the steps."
            ) from error
    if isinstance(outputs, torch.Tensor):
        return ("output",)
    if not isinstance(outputs, (tuple, list)) or not all(isinstance(item, torch.Tensor) for item in outputs):
        raise ExportError(
            f"converting to ONNX: the last step returned {type(outputs).__name__}, expected a tensor or a tuple of"
            " tensors. Add a post_process module that makes one."
        )
    return tuple(f"output_{index}" for index in range(len(outputs)))
