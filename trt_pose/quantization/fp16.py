"""Conversion of the network to FP16; decode, TopK, NMS, inputs and outputs stay in FP32. Needs no GPU.

TensorRT 11 and TensorRT-RTX have no FP16 flag: the types in the graph determine the precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ExportError, first_line
from ..graphs.surgery import cut, float_tensors, replace_nodes, tidy
from ..runtime.ort import OnnxRunner
from .batches import Pixels, feeds
from .network import Network
from .qdq import opset

LARGEST = 65504.0  # largest finite FP16 number (IEEE 754 binary16)
# Activations above this share of LARGEST stay in FP32, because other images may give larger values.
_MARGIN = 0.5
# Inputs that ONNX requires in FP32 for data of any type, by operator: roi and scales of a resize.
_ALWAYS_FP32 = {"Resize": (1, 2), "Upsample": (1,)}
# First operator set in which QuantizeLinear takes FP16.
QDQ_OPSET = 19
_IR_OF_19 = 9


def find_overflows(network: Network, batches: Iterable[Pixels]) -> dict[str, str]:
    """Finds the nodes whose weights or activations are too large for FP16.

    Args:
        network: the graph to convert.
        batches: images to run it on, see :func:`trt_pose.quantization.open_batches`.

    Returns:
        The reason by node name: a weight above 65,504, or an activation above half of that on the images.
    """
    found = {}
    for node in network.members():
        # Bounds of a Clip are clamped later, like its values. Constants of Reshape and Slice are shapes and indices.
        values = [network.constant(name) for name in node.input if node.op_type not in ("Clip", "Reshape", "Slice")]
        floats = [v for v in values if v is not None and v.dtype == np.float32 and v.size]
        largest = max((float(np.abs(value).max()) for value in floats), default=0.0)
        if largest > LARGEST:
            found[node.name] = f"a weight of {largest:.3g}"
    ranges = _ranges(network, batches)
    for node in network.members():
        largest = max((ranges.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if largest > LARGEST * _MARGIN:
            found.setdefault(node.name, f"values up to {largest:.3g}")
    return found


def _ranges(network: Network, batches: Iterable[Pixels]) -> dict[str, float]:
    """Returns the largest magnitude of every floating-point tensor of the network over the images."""
    part = cut(network.proto, network.border)
    names = [name for node in part.graph.node for name in node.output if name in network.floats]
    del part.graph.output[:]
    for name in names:
        for kind in ("ReduceMax", "ReduceMin"):
            part.graph.node.append(helper.make_node(kind, [name], [f"{name}/{kind}"], keepdims=0))
            part.graph.output.append(helper.make_tensor_value_info(f"{name}/{kind}", TensorProto.FLOAT, []))
    ranges = dict.fromkeys(names, 0.0)
    with OnnxRunner(part.SerializeToString(), providers=["cpu"]) as runner:
        (feed,) = runner.inputs
        for images, _ in feeds(batches, runner.spec.input):
            outputs = runner.run({feed: images})
            for name in names:
                seen = max(abs(float(outputs[f"{name}/{kind}"])) for kind in ("ReduceMax", "ReduceMin"))
                ranges[name] = max(ranges[name], seen if np.isfinite(seen) else np.inf)
    return ranges


def to_half(network: Network, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Returns a copy of the graph in which the network computes in FP16.

    Args:
        network: an FP32 graph, with or without INT8 layers; not changed.
        keep: names of nodes that stay in FP32.

    Raises:
        ExportError: the operator set cannot be raised to 19, which FP16 with INT8 needs.
    """
    proto = network.proto
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node) and opset(proto) < QDQ_OPSET:
        proto = raise_opset(proto, QDQ_OPSET)
    return _Converter(proto, network.nodes - set(keep)).convert()


def raise_opset(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Converts a graph to a newer operator set. Raises ExportError when onnx cannot convert it."""
    try:
        raised: onnx.ModelProto = onnx.version_converter.convert_version(tidy(proto), version)
    except Exception as error:  # the converter's exceptions have no common base
        raise ExportError(
            f"raising the operator set to {version}: {first_line(error)[:200]}. Export the model with"
            f" opset_version={version}."
        ) from error
    raised.ir_version = max(raised.ir_version, _IR_OF_19)
    return raised


class _Converter:
    """A single conversion of a graph to FP16."""

    def __init__(self, proto: onnx.ModelProto, half: Collection[str]) -> None:
        self._proto = onnx.ModelProto()
        self._proto.CopyFrom(proto)
        self._half = half
        self._floats = float_tensors(proto)
        self._constants = {item.name: item for item in proto.graph.initializer}
        self._producers = {name: node.name for node in proto.graph.node for name in node.output}
        self._outputs = {item.name for item in proto.graph.output}
        self._cast: set[str] = set()

    def convert(self) -> onnx.ModelProto:
        graph = self._proto.graph
        nodes = []
        for node in graph.node:
            nodes += [*self._casts_before(node), node, *self._casts_after(node)]
        del graph.value_info[:]
        replace_nodes(graph, nodes)
        return self._proto

    def _casts_before(self, node: Any) -> Iterator[onnx.NodeProto]:
        """Connects the inputs of a node to tensors of its own type; yields the Cast nodes that this needs."""
        in_half = node.name in self._half
        if in_half:
            self._retype_attributes(node)
        for position, name in enumerate(node.input):
            want_half = in_half and position not in _ALWAYS_FP32.get(node.op_type, ())
            if name in self._constants:
                if want_half and self._constants[name].data_type == TensorProto.FLOAT:
                    node.input[position] = self._half_constant(name)
            elif name in self._floats:
                made_half, output = self._made_half(name), name in self._outputs
                if want_half and made_half:
                    node.input[position] = f"{name}/fp16" if output else name
                elif want_half:
                    node.input[position] = f"{name}/fp16"
                    yield from self._cast_node(name, f"{name}/fp16", TensorProto.FLOAT16)
                elif made_half and not output:
                    node.input[position] = f"{name}/fp32"
                    yield from self._cast_node(name, f"{name}/fp32", TensorProto.FLOAT)

    def _casts_after(self, node: Any) -> Iterator[onnx.NodeProto]:
        """Yields the Cast nodes that give outputs computed in FP16 their original name and type."""
        for position, name in enumerate(node.output):
            if name in self._outputs and self._made_half(name):
                node.output[position] = f"{name}/fp16"
                yield helper.make_node("Cast", [f"{name}/fp16"], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)

    def _made_half(self, name: str) -> bool:
        return name in self._floats and self._producers.get(name) in self._half

    def _half_constant(self, name: str) -> str:
        half = f"{name}/fp16"
        if half not in self._cast:
            self._cast.add(half)
            values = numpy_helper.to_array(self._constants[name])
            with np.errstate(over="ignore"):
                clipped = np.clip(values, -LARGEST, LARGEST)
            self._proto.graph.initializer.append(numpy_helper.from_array(clipped.astype(np.float16), half))
        return half

    def _cast_node(self, name: str, output: str, kind: int) -> Iterator[onnx.NodeProto]:
        if output not in self._cast:
            self._cast.add(output)
            yield helper.make_node("Cast", [name], [output], name=f"{output}/Cast", to=kind)

    def _retype_attributes(self, node: Any) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(attribute.t)
                attribute.t.CopyFrom(numpy_helper.from_array(values.astype(np.float16), attribute.t.name))
