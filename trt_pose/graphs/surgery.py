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
    """The same model as the passes here want it: named nodes, one version per operator domain, no Constant nodes.

    The model itself where it is so already, else a copy.

    Raises:
        ExportError: a node with a graph of its own (If, Loop), whose tensors these passes do not follow.
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
    """Makes ``nodes``, some of them the graph's own, its nodes in that order; drops initializers nothing reads."""
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _constant_value(node: Any) -> npt.NDArray[Any] | None:
    """The value of a Constant node; None for strings and sparse tensors, which stay nodes."""
    (attribute,) = node.attribute
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(attribute.i if attribute.name == "value_int" else attribute.ints, np.int64)
    return None


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its tensors typed. Raises ExportError when it contradicts itself."""
    try:
        typed: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto)
    except Exception as error:  # onnx's exceptions have no common base
        raise ExportError(f"reading the graph: {first_line(error)[:200]}. Export it again.") from error
    return typed


def float_tensors(proto: onnx.ModelProto) -> frozenset[str]:
    """Names of computed FP32 tensors and inputs."""
    typed = infer_shapes(proto).graph
    items = (*typed.value_info, *typed.input, *typed.output)
    return frozenset(item.name for item in items if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def cut(proto: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The part of a graph that computes ``tensors``, which become its outputs; the metadata stays.

    Plugin nodes behind them are left out, so ONNX Runtime runs the part where it could not run the whole.
    """
    wanted = list(tensors)
    typed = infer_shapes(proto)
    inputs = [item.name for item in typed.graph.input]
    part: onnx.ModelProto = onnx.utils.Extractor(typed).extract_model(inputs, wanted)
    part.metadata_props.extend(proto.metadata_props)
    return part
