"""Conversion of the network to FP16; decode, TopK, NMS, inputs and outputs stay in FP32. Needs no GPU.

TensorRT 11 and TensorRT-RTX have no FP16 flag: the types in the graph determine the precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..errors import ExportError, first_line
from ..graphs.surgery import extract, float_tensors, forget_types, normalize_graph, to_graph, to_model
from ..runtime.ort import OnnxRunner
from .batches import Pixels, feeds
from .network import POSITIONS, Network
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
    reasons = {}
    for node in network.members():
        # Clip bounds are clamped to the FP16 range, and shape inputs are not values of the network.
        inputs = () if node.op in ("Clip", "Reshape", "Slice") else node.inputs
        constants = [tensor for tensor in inputs if isinstance(tensor, gs.Constant) and tensor.dtype == np.float32]
        largest = max((float(np.abs(tensor.values).max(initial=0.0)) for tensor in constants), default=0.0)
        if largest > LARGEST:
            reasons[node.name] = f"a weight of {largest:.3g}"
    ranges = _ranges(network, batches)
    for node in network.members():
        tensors = (*node.inputs, *node.outputs)
        largest = max((ranges.get(tensor.name, 0.0) for tensor in tensors), default=0.0)
        if largest > LARGEST * _MARGIN:
            reasons.setdefault(node.name, f"values up to {largest:.3g}")
    return reasons


def _ranges(network: Network, batches: Iterable[Pixels]) -> dict[str, float]:
    """Returns the largest magnitude of every floating-point tensor of the network over the images."""
    part = extract(network.graph, network.border)
    names = [tensor.name for node in part.nodes for tensor in node.outputs if tensor.name in network.floats]
    tensors, operators = part.tensors(), ("ReduceMax", "ReduceMin")
    part.outputs = []
    for name in names:
        for operator in operators:
            extreme = gs.Variable(f"{name}/{operator}", np.float32, ())
            part.nodes.append(gs.Node(operator, extreme.name, {"keepdims": 0}, [tensors[name]], [extreme]))
            part.outputs.append(extreme)
    ranges = dict.fromkeys(names, 0.0)
    with OnnxRunner(to_model(part, network.proto).SerializeToString(), providers=["cpu"]) as runner:
        (feed,) = runner.inputs
        for images, _ in feeds(batches, runner.spec.input):
            outputs = runner.run({feed: images})
            for name in names:
                largest = max(abs(float(outputs[f"{name}/{operator}"])) for operator in operators)
                ranges[name] = max(ranges[name], largest if np.isfinite(largest) else np.inf)
    return ranges


def to_half(network: Network, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Returns a copy of the graph in which the network computes in FP16.

    Nodes that read at positions stay in FP32: FP16 would place them to a tenth of a pixel only, and TensorRT takes
    values and positions of one type.

    Args:
        network: an FP32 graph, with or without INT8 layers; not changed.
        keep: names of nodes that stay in FP32.

    Raises:
        ExportError: the operator set cannot be raised to 19, which FP16 with INT8 needs.
    """
    proto = network.proto
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node) and opset(proto) < QDQ_OPSET:
        proto = raise_opset(proto, QDQ_OPSET)
    precise = {node.name for node in network.members() if node.op in POSITIONS}
    return _Converter(proto, network.nodes - set(keep) - precise).convert()


def raise_opset(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Converts a graph to a newer operator set. Raises ExportError when onnx cannot convert it."""
    try:
        raised: onnx.ModelProto = onnx.version_converter.convert_version(normalize_graph(proto), version)
    except Exception as error:  # the converter's exceptions have no common base
        raise ExportError(
            f"raising the operator set to {version}: {first_line(error)[:200]}. Export the model with"
            f" opset_version={version}."
        ) from error
    raised.ir_version = max(raised.ir_version, _IR_OF_19)
    return raised


class _Converter:
    """One conversion of one graph."""

    def __init__(self, proto: onnx.ModelProto, half: Collection[str]) -> None:
        self._proto, self._half = proto, half
        self._graph = to_graph(proto)
        self._floats = float_tensors(proto)
        self._outputs = {tensor.name for tensor in self._graph.outputs}
        self._produced_half = {
            tensor.name
            for node in self._graph.nodes
            if node.name in half
            for tensor in node.outputs
            if tensor.name in self._floats
        }
        self._made: dict[str, gs.Tensor] = {}

    def convert(self) -> onnx.ModelProto:
        nodes: list[gs.Node] = []
        for node in list(self._graph.nodes):
            nodes += [*self._casts_before(node), node, *self._casts_after(node)]
        self._graph.nodes = nodes
        forget_types(self._graph)
        return to_model(self._graph.cleanup(remove_unused_graph_inputs=False), self._proto)

    def _casts_before(self, node: gs.Node) -> Iterator[gs.Node]:
        """Connects the inputs of a node to tensors of its own type; yields the casts this needs."""
        in_half = node.name in self._half
        if in_half:
            _retype_attributes(node)
        for position, tensor in enumerate(list(node.inputs)):
            want_half = in_half and position not in _ALWAYS_FP32.get(node.op, ())
            if isinstance(tensor, gs.Constant):
                if want_half and tensor.dtype == np.float32:
                    node.inputs[position] = self._half_constant(tensor)
            elif tensor.name in self._floats:
                made_half, is_output = tensor.name in self._produced_half, tensor.name in self._outputs
                if want_half and made_half and is_output:
                    node.inputs[position] = self._made[f"{tensor.name}/fp16"]
                elif want_half and not made_half:
                    yield from self._cast(tensor, "fp16", TensorProto.FLOAT16)
                    node.inputs[position] = self._made[f"{tensor.name}/fp16"]
                elif not want_half and made_half and not is_output:
                    yield from self._cast(tensor, "fp32", TensorProto.FLOAT)
                    node.inputs[position] = self._made[f"{tensor.name}/fp32"]

    def _casts_after(self, node: gs.Node) -> Iterator[gs.Node]:
        """Casts the file outputs that a node computes in FP16 back to FP32, under their original names."""
        for position, tensor in enumerate(list(node.outputs)):
            if tensor.name in self._outputs and tensor.name in self._produced_half:
                half = self._made[f"{tensor.name}/fp16"] = gs.Variable(f"{tensor.name}/fp16")
                node.outputs[position] = half
                yield gs.Node("Cast", f"{tensor.name}/Cast", {"to": int(TensorProto.FLOAT)}, [half], [tensor])

    def _half_constant(self, tensor: gs.Constant) -> gs.Tensor:
        name = f"{tensor.name}/fp16"
        if name not in self._made:
            with np.errstate(over="ignore"):
                clipped = np.clip(tensor.values, -LARGEST, LARGEST)
            self._made[name] = gs.Constant(name, np.asarray(clipped, np.float16))
        return self._made[name]

    def _cast(self, tensor: gs.Tensor, suffix: str, dtype: int) -> Iterator[gs.Node]:
        name = f"{tensor.name}/{suffix}"
        if name not in self._made:
            self._made[name] = gs.Variable(name)
            yield gs.Node("Cast", f"{name}/Cast", {"to": int(dtype)}, [tensor], [self._made[name]])


def _retype_attributes(node: gs.Node) -> None:
    """Makes the attributes of a node that runs in FP16 produce FP16."""
    for name, value in node.attrs.items():
        if node.op == "Cast" and name == "to" and value == TensorProto.FLOAT:
            node.attrs[name] = int(TensorProto.FLOAT16)
        elif isinstance(value, gs.Constant) and value.dtype == np.float32:
            node.attrs[name] = gs.Constant(value.name, np.asarray(value.values, np.float16))
