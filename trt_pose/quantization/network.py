"""Separation of an ONNX graph into network and decode, and the layers that INT8 can run.

The network is everything that a weighted layer depends on, and the reshapes and concatenations of the layers' results.
The nodes after it (distribution to distance, boxes, joints, TopK, NMS) are the decode. The decode stays in FP32: half
precision costs it 10 to 17 dB, and INT8 breaks it. In Keypoint R-CNN layers follow a decode, whose boxes say where they
read the features. Such positions are not values of the network, so that decode stays in FP32, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from ..errors import ExportError
from ..graphs.surgery import float_tensors, normalize_graph, to_graph

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SHAPE_OPERATORS = {"Reshape", "Concat", "Transpose", "Flatten", "Identity", "Squeeze", "Unsqueeze"}

# Inputs that say where a node reads and not what, by operator.
POSITIONS = {"GridSample": (1,), "RoiAlign": (1, 2)}


@dataclass(frozen=True)
class Layer:
    """A node that can run in INT8, and its tensors to quantize.

    Attributes:
        name: name of the node.
        kind: its operator.
        activation: tensor to quantize.
        position: index of the input at which the node reads ``activation``.
        weight: initializer to quantize per channel; None for layers without weights.
        axis: axis of the output channels in ``weight``.
    """

    name: str
    kind: str
    activation: str
    position: int
    weight: str | None = None
    axis: int = 0


class Network:
    """The part of a graph between the image and the decode.

    Attributes:
        proto: the model, normalized by :func:`trt_pose.graphs.surgery.normalize_graph`.
        graph: the same, opened by GraphSurgeon; not to be changed.
        floats: names of computed FP32 tensors and inputs.
        nodes: names of the network's nodes.
        border: tensors of the network that the decode reads or the file outputs.
        positions: computed tensors outside the network that say where its nodes read.
        layers: the layers that INT8 can run, in order of execution.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = normalize_graph(proto)
        self.graph = to_graph(self.proto)
        self.floats = float_tensors(self.proto)
        self._tensors = self.graph.tensors()
        self.nodes = self._find_nodes()
        self.border = tuple(self._find_border())
        self.positions = tuple(self._find_positions())
        self.layers = tuple(self._find_layers())

    def members(self) -> Iterator[gs.Node]:
        """Yields the network's nodes in order of execution."""
        return (node for node in self.graph.nodes if node.name in self.nodes)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Returns the value of a constant tensor, or None for a computed one."""
        tensor = self._tensors.get(name)
        return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None

    def activations(self) -> tuple[str, ...]:
        """Returns the activations to quantize, each once."""
        return tuple(dict.fromkeys(layer.activation for layer in self.layers))

    def all_activations(self) -> tuple[str, ...]:
        """Returns every computed FP32 tensor of the network. TensorRT's implicit INT8 needs a range for each."""
        return tuple(tensor.name for node in self.members() for tensor in node.outputs if tensor.name in self.floats)

    def results(self) -> tuple[str, ...]:
        """Returns the outputs of all weighted layers. Calibration depends on the graph up to these only."""
        return tuple(node.outputs[0].name for node in self.members() if _weight(node) is not None)

    def images(self) -> frozenset[str]:
        """Returns the tensors that hold the unchanged image: the graph's inputs, and casts of them."""
        images = {tensor.name for tensor in self.graph.inputs}
        for node in self.graph.nodes:
            if node.op == "Cast" and node.inputs[0].name in images:
                images.add(node.outputs[0].name)
        return frozenset(images)

    def upstream(self, tensors: Iterable[str]) -> frozenset[str]:
        """Returns the names of the nodes that compute ``tensors``."""
        return _upstream([node for name in tensors for node in self._tensors[name].inputs], lambda node: node.inputs)

    def _find_nodes(self) -> frozenset[str]:
        layers = [node for node in self.graph.nodes if _weight(node) is not None and not _is_decode(node)]
        if not layers:
            raise ExportError("reading the graph: it holds no convolution with constant weights. Check the file.")
        members = set(_upstream(layers, _values))
        for node in self.graph.nodes:
            if node.op in SHAPE_OPERATORS:
                carried = node.inputs if node.op == "Concat" else node.inputs[:1]
                if all(tensor.inputs and tensor.inputs[0].name in members for tensor in carried):
                    members.add(node.name)
        return frozenset(members)

    def _find_border(self) -> Iterator[str]:
        outputs = {tensor.name for tensor in self.graph.outputs}
        for node in self.members():
            if node.op in ("Constant", "Shape", "Cast"):
                continue
            for tensor in node.outputs:
                if tensor.name in outputs or any(reader.name not in self.nodes for reader in tensor.outputs):
                    yield tensor.name

    def _find_positions(self) -> Iterator[str]:
        found = (node.inputs[place] for node in self.members() for place in POSITIONS.get(node.op, ()))
        return (name for name in dict.fromkeys(tensor.name for tensor in found if tensor.inputs))

    def _find_layers(self) -> Iterator[Layer]:
        depths = self._depths()
        for node in self.members():
            weight, inputs = _weight(node), [tensor.name for tensor in node.inputs]
            if not any(tensor.name in self.floats for tensor in node.outputs):
                continue  # shape arithmetic
            if weight is not None and not isinstance(weight, gs.Constant):
                continue  # already INT8
            if weight is not None:
                yield Layer(node.name, node.op, inputs[0], 0, weight.name, _channel_axis(node))
            elif node.op == "MaxPool":
                yield Layer(node.name, node.op, inputs[0], 0)
            elif node.op == "Add" and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
                # A residual sum is fused into the deeper branch's convolution, so only the shortcut is quantized.
                first, second = (depths.get(name, 0) for name in inputs)
                position = 0 if first <= second else 1
                yield Layer(node.name, node.op, inputs[position], position)

    def _depths(self) -> dict[str, int]:
        """Returns for each tensor the number of nodes on the longest path from the image."""
        depths: dict[str, int] = {}
        for node in self.graph.nodes:
            depth = 1 + max((depths.get(tensor.name, 0) for tensor in node.inputs), default=0)
            depths.update((tensor.name, depth) for tensor in node.outputs)
        return depths


def _weight(node: gs.Node) -> gs.Tensor | None:
    """Returns the constant weight of a weighted layer, the dequantized tensor where it is INT8 already, or None."""
    if node.op not in WEIGHTED or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if isinstance(weight, gs.Constant):
        return weight
    maker = weight.inputs[0] if weight.inputs else None
    dequantized = maker is not None and maker.op == "DequantizeLinear" and isinstance(maker.inputs[0], gs.Constant)
    return weight if dequantized else None


def _is_decode(node: gs.Node) -> bool:
    """Returns whether a node multiplies by 0, 1, 2, …, which is the expectation of a distribution, not a layer."""
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or np.prod(weight.shape) > 64:
        return False
    values = np.ravel(weight.values)
    return np.array_equal(values, np.arange(values.size))


def _channel_axis(node: gs.Node) -> int:
    """Returns the axis of the output channels in the weight of a layer."""
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB") else 1
    if node.op == "MatMul":
        return len(node.inputs[1].shape) - 1
    return 1  # ConvTranspose


def _values(node: gs.Node) -> list[gs.Tensor]:
    """Returns the inputs of a node that are values, not positions."""
    return [tensor for place, tensor in enumerate(node.inputs) if place not in POSITIONS.get(node.op, ())]


def _upstream(nodes: Iterable[gs.Node], inputs_of: Callable[[gs.Node], list[gs.Tensor]]) -> frozenset[str]:
    """Returns the names of ``nodes`` and of all nodes they depend on through ``inputs_of`` each."""
    waiting, names = list(nodes), set[str]()
    while waiting:
        node = waiting.pop()
        if node.name not in names:
            names.add(node.name)
            waiting.extend(maker for tensor in inputs_of(node) for maker in tensor.inputs)
    return frozenset(names)
