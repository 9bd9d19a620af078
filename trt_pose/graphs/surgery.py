"""Changes to ONNX graphs, by ONNX GraphSurgeon: opening and closing, normalizing, extracting, joining.

GraphSurgeon does not keep a model's metadata. :func:`to_model` takes it from the model the graph was opened from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from ..errors import ExportError, first_line


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """Opens a model for surgery. Weights are shared with it until they are changed.

    Raises:
        ExportError: GraphSurgeon does not know an element type or an attribute.
    """
    try:
        return gs.import_onnx(model)
    except Exception as error:  # it raises KeyError, ValueError and others for a damaged graph
        raise ExportError(
            f"reading the graph: ONNX GraphSurgeon cannot read it ({type(error).__name__}: {first_line(error)[:200]})."
            " Export it again."
        ) from error


def to_model(graph: gs.Graph, like: onnx.ModelProto) -> onnx.ModelProto:
    """Closes a graph: a model with the metadata, producer and IR version of ``like``."""
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = like.ir_version
    model.producer_name, model.producer_version = like.producer_name, like.producer_version
    model.doc_string = like.doc_string
    del model.metadata_props[:]
    model.metadata_props.extend(like.metadata_props)
    return model


def normalize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with unique node names, one opset version per domain, and initializers for Constant nodes.

    Constant nodes of strings and sparse tensors stay.

    Raises:
        ExportError: a node has a subgraph (If, Loop), whose tensors the passes of this package do not follow.
    """
    for node in model.graph.node:
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise ExportError(
                f"reading the graph: node {node.name or node.op_type} holds a graph of its own, around which precision"
                " cannot be changed. Export the model without control flow."
            )
    names = [node.name for node in model.graph.node]
    constants = any(node.op_type == "Constant" for node in model.graph.node)
    domains = [item.domain for item in model.opset_import]
    if len(set(names)) == len(names) and "" not in names and not constants and len(set(domains)) == len(domains):
        return model
    graph = to_graph(model)
    graph.import_domains = [
        onnx.helper.make_opsetid(domain, max(item.version for item in model.opset_import if item.domain == domain))
        for domain in dict.fromkeys(domains)
    ]
    taken: set[str] = set()
    for index, node in enumerate(graph.nodes):
        value = _constant_value(node)
        if value is not None:
            tensor = node.outputs[0]
            tensor.inputs.clear()
            tensor.to_constant(value)
            continue
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op}#{index}"
        taken.add(node.name)
    graph.nodes = [node for node in graph.nodes if node.op != "Constant" or node.outputs]
    return to_model(graph, model)


def _constant_value(node: gs.Node) -> np.ndarray | None:
    """Returns the value of a Constant node; None for other nodes, and for strings and sparse tensors."""
    if node.op != "Constant":
        return None
    ((name, value),) = node.attrs.items()
    if name == "value":
        return np.asarray(value.values)
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    return None


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with inferred tensor types. Raises ExportError when they contradict each other."""
    try:
        typed: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # onnx's exceptions have no common base
        raise ExportError(f"reading the graph: {first_line(error)[:200]}. Export it again.") from error
    return typed


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Returns the names of computed FP32 tensors and inputs."""
    typed = infer_shapes(model).graph
    items = (*typed.value_info, *typed.input, *typed.output)
    return frozenset(item.name for item in items if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def extract(graph: gs.Graph, tensors: Collection[str], given: Mapping[str, npt.NDArray[Any]] | None = None) -> gs.Graph:
    """Returns a copy of the part of a graph that computes ``tensors``, which become its outputs; its inputs stay.

    Args:
        graph: the graph.
        tensors: names of the outputs of the part.
        given: examples of the tensors that become inputs, too, by name.

    Raises:
        ExportError: the graph does not have one of them.
    """
    part = graph.copy()
    by_name = part.tensors()
    for name in (*tensors, *(given or {})):
        if name not in by_name:
            raise ExportError(f"reading the graph: no node makes {name[:100]}. Export the model again.")
    part.outputs = [by_name[name] for name in tensors]
    for name, example in (given or {}).items():
        by_name[name].inputs.clear()
        by_name[name].dtype, by_name[name].shape = example.dtype, list(example.shape)
        part.inputs.append(by_name[name])
    return part.cleanup(remove_unused_graph_inputs=False)


def extract_subgraph(
    model: onnx.ModelProto,
    tensors: Collection[str],
    given: Mapping[str, npt.NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """Returns the part of a model that computes ``tensors``, as :func:`extract` does; keeps the metadata.

    Plugin nodes after the tensors are dropped, so that ONNX Runtime can run the rest.
    """
    return to_model(extract(to_graph(infer_shapes(model)), tensors, given), model)


def forget_types(graph: gs.Graph) -> None:
    """Drops the types of all tensors but inputs and outputs: a change of precision makes them wrong."""
    kept = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in kept:
            tensor.dtype = tensor.shape = None


def rename(graph: gs.Graph, prefix: str, inside: bool = False) -> gs.Graph:
    """Puts ``prefix`` before the names of nodes and tensors, in place, so that two graphs can be joined.

    Args:
        graph: the graph to change.
        prefix: the text in front.
        inside: keep the names of inputs and outputs.
    """
    kept = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)} if inside else set()
    for tensor in list(graph.tensors().values()):
        if id(tensor) not in kept:
            tensor.name = prefix + tensor.name
    for node in graph.nodes:
        # A node needs no name, and many have none; two of one name are refused.
        node.name = node.name and prefix + node.name
    return graph


def join(first: gs.Graph, second: gs.Graph, links: Mapping[str, str]) -> gs.Graph:
    """Appends ``second`` to ``first``, in place; the outputs are those of ``second``.

    Args:
        first: the graph whose tensors are read.
        second: the graph that reads them; its names must differ from those of ``first``.
        links: input of ``second`` to tensor of ``first``.
    """
    tensors, inputs = first.tensors(), {tensor.name: tensor for tensor in second.inputs}
    for name, source in links.items():
        for node in list(inputs[name].outputs):
            node.inputs = [tensors[source] if tensor is inputs[name] else tensor for tensor in node.inputs]
        second.outputs = [tensors[source] if tensor is inputs[name] else tensor for tensor in second.outputs]
    first.nodes.extend(second.nodes)
    first.outputs = list(second.outputs)
    known = {item.domain for item in first.import_domains}
    first.import_domains.extend(item for item in second.import_domains if item.domain not in known)
    return first.cleanup(remove_unused_graph_inputs=False).toposort()
