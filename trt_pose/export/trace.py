"""Steps from a module to an ONNX model: trace, simplify without the weights, attach the weights."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from ..errors import ExportError, first_line
from ..formats import FORMATS, find_format
from ..graphs.finish import simplify
from ..models.model import Model
from ..spec import ModelSpec
from ..tasks import TASKS
from .graph import DeployGraph
from .plan import ExportPlan


def trace(graph: DeployGraph, spec: ModelSpec, plan: ExportPlan) -> onnx.ModelProto:
    """Traces the graph with torch's TorchScript exporter; weights become graph inputs where possible.

    Without weights the next steps handle 0.2 MB instead of 60 MB (S model); :func:`attach_weights` adds them last. The
    weights stay in the trace when a caller's module may have weights of its own. The newer ``dynamo`` exporter needs
    onnxscript, takes several times as long on these models, and cannot express the operators of functions.py without a
    translation table.

    Raises:
        ExportError: torch.onnx.export failed.
    """
    example = torch.zeros(plan.example_shape, dtype=plan.dtype, device=plan.device)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's deprecation notice, constants recorded by the trace
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
    except Exception as error:  # a caller's module may raise anything while it is traced
        raise ExportError(
            f"tracing {spec.model}: torch.onnx.export failed: {first_line(error)}. Check the modules given."
        ) from error
    return onnx.load_model_from_string(buffer.getvalue())


def _holds_foreign_weights(graph: DeployGraph, plan: ExportPlan) -> bool:
    """Returns whether a caller's module may have weights; all weights must then stay in the trace.

    The exporter transposes and merges the parameters of layers it rewrites (Linear, Conv with batch norm). Our own
    networks are fused beforehand. The Linear layers of Keypoint R-CNN export correctly; ``verify`` would detect an
    error.
    """
    if not isinstance(graph.network, Model):
        return True
    theirs = [module for module in (plan.preprocess, plan.postprocess) if isinstance(module, nn.Module)]
    return any(True for module in theirs for _ in (*module.parameters(), *module.buffers()))


def simplify_traced(proto: onnx.ModelProto, hint: str = "") -> onnx.ModelProto:
    """Simplifies a trace whose weights are graph inputs, and leaves them so; see :func:`simplify`.

    The simplifier compares every graph input with every tensor, over and over. Meanwhile the weights of convolutions
    are tensors whose values lie in files that do not exist: no rule of the simplifier reads those. The files have
    different names, because weights that lie in the same place are merged.
    """
    readers: dict[str, set[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    weights = {item.name: item for item in proto.graph.input if readers.get(item.name) == {"Conv"}}
    kept = [item for item in proto.graph.input if item.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for name, item in weights.items():
        form = item.type.tensor_type
        sizes = [axis.dim_value for axis in form.shape.dim]
        tensor = proto.graph.initializer.add(name=name, data_type=form.elem_type, dims=sizes)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    made = simplify(proto, hint)
    stored = [item for item in made.graph.initializer if item.name not in weights]
    made.graph.input.extend(weights[item.name] for item in made.graph.initializer if item.name in weights)
    del made.graph.initializer[:]
    made.graph.initializer.extend(stored)
    return made


def attach_weights(proto: onnx.ModelProto, graph: DeployGraph, spec: ModelSpec) -> None:
    """Replaces every graph input except the image with an initializer that holds the graph's value.

    The network of ``graph`` loses its parameters, so that the weights are not in memory twice; it cannot run any more.
    """
    values = graph.state_dict()
    kept = [item for item in proto.graph.input if item.name == spec.input.name]
    weights = [item.name for item in proto.graph.input if item.name != spec.input.name]
    used = {name for node in proto.graph.node for name in node.input}  # empty loop below when trace() kept the weights
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for name in weights:
        if name in used:
            proto.graph.initializer.append(numpy_helper.from_array(values[name].cpu().numpy(), name))
    for module in graph.network.modules():  # copies of the caller's modules
        for name, _ in list(module.named_parameters(recurse=False)):
            delattr(module, name)


def output_names(graph: DeployGraph, plan: ExportPlan, task: str) -> tuple[str, ...]:
    """Returns the names of a graph's outputs, in order; those of a caller's own module are numbered."""
    if plan.postprocess is None:
        return FORMATS[plan.output_format].names(TASKS[task])
    with torch.inference_mode():
        outputs = graph(torch.zeros(plan.example_shape, dtype=plan.dtype, device=plan.device))
    if isinstance(outputs, torch.Tensor):
        return ("output",)
    return tuple(f"output_{index}" for index in range(len(outputs)))


def _dynamic_axes(spec: ModelSpec) -> dict[str, dict[int, str]]:
    axes = find_format(spec).axes(spec)
    if spec.input.takes_any_size:
        return {spec.input.name: {2: "height", 3: "width"}, **axes}
    return axes if spec.input.batch else {spec.input.name: {0: "batch"}, **axes}
