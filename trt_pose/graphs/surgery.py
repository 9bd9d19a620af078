"""Changes to ONNX graphs: normalizing, extracting a part, replacing nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ..errors import ExportError, first_line


def tidy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with unique node names, one version per operator domain and initializers for Constant nodes.

    This is the model itself if it already has this form, else a copy.

    Raises:
        ExportError: a node holds a subgraph (If, Loop), which the functions of this module do not support.
    """
    for node in proto.graph.node:
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise ExportError(
                f"reading the graph: node {node.name or node.op_type} holds a graph of its own, around which precision"
                " cannot be changed. Export the model without control flow."
            )
    names = [node.name for node in proto.graph.node]
    constants = any(node.op_type == "Constant" for node in proto.graph.node)
    domains = [item.domain for item in proto.opset_import]
    if len(set(names)) == len(names) and "" not in names and not constants and len(set(domains)) == len(domains):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    versions = {domain: max(item.version for item in copy.opset_import if item.domain == domain) for domain in domains}
    del copy.opset_import[:]
    copy.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    kept = []
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        value = _constant_value(node) if node.op_type == "Constant" else None
        if value is not None:
            copy.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            continue
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}#{index}"
        taken.add(node.name)
        kept.append(node)
    replace_nodes(copy.graph, kept)
    return copy


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replaces the nodes of a graph by ``nodes``, which may include its own; drops unused initializers."""
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _constant_value(node: Any) -> npt.NDArray[Any] | None:
    """Returns the value of a Constant node, or None for strings and sparse tensors, which stay nodes."""
    (attribute,) = node.attribute
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(attribute.i if attribute.name == "value_int" else attribute.ints, np.int64)
    return None


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with inferred tensor types and shapes. Raises ExportError when the inference fails."""
    try:
        typed: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto)
    except Exception as error:  # exceptions of onnx have no common base class
        raise ExportError(f"reading the graph: {first_line(error)[:200]}. Export it again.") from error
    return typed


def float_tensors(proto: onnx.ModelProto) -> frozenset[str]:
    """Returns the names of FP32 inputs and computed FP32 tensors."""
    typed = infer_shapes(proto).graph
    items = (*typed.value_info, *typed.input, *typed.output)
    return frozenset(item.name for item in items if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def cut(proto: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Returns the part of a graph that computes ``tensors``, which become its outputs; keeps the metadata.

    Plugin nodes after ``tensors`` are left out, so that ONNX Runtime can run the part.
    """
    wanted = list(tensors)
    typed = infer_shapes(proto)
    inputs = [item.name for item in typed.graph.input]
    part: onnx.ModelProto = onnx.utils.Extractor(typed).extract_model(inputs, wanted)
    part.metadata_props.extend(proto.metadata_props)
    return part
