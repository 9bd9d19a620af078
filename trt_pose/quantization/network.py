"""Separation of an ONNX graph into network and decode, and the layers that INT8 can run.

The network is everything that a weighted layer depends on, and the reshapes and concatenations of the layers' results.
The nodes after it (distribution to distance, boxes, joints, TopK, NMS) are the decode. The decode stays in FP32: half
precision costs it 10 to 17 dB, and INT8 breaks it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ..errors import ExportError
from ..graphs.surgery import float_tensors, tidy

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_CARRIERS = {"Reshape", "Concat", "Transpose", "Flatten", "Identity", "Squeeze", "Unsqueeze"}


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
        proto: the model, normalized by :func:`trt_pose.graphs.surgery.tidy`.
        nodes: names of the network's nodes.
        border: tensors of the network that the decode reads or the file outputs.
        layers: the layers that INT8 can run, in order of execution.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto = tidy(proto)
        self.constants = {item.name: item for item in proto.graph.initializer}
        self._producers = {name: node for node in proto.graph.node for name in node.output}
        self._consumers: dict[str, list[Any]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                self._consumers[name].append(node)
        self.floats = float_tensors(proto)
        self.nodes = self._find_nodes()
        self.border = tuple(self._find_border())
        self.layers = tuple(self._find_layers())

    def members(self) -> Iterator[Any]:
        """Yields the network's nodes in order of execution."""
        return (node for node in self.proto.graph.node if node.name in self.nodes)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Returns the value of a constant tensor, or None for a computed one."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def activations(self) -> tuple[str, ...]:
        """Returns the activations to quantize, each once."""
        return tuple(dict.fromkeys(layer.activation for layer in self.layers))

    def all_activations(self) -> tuple[str, ...]:
        """Returns every computed FP32 tensor of the network. TensorRT's implicit INT8 needs a range for each."""
        return tuple(name for node in self.members() for name in node.output if name in self.floats)

    def results(self) -> tuple[str, ...]:
        """Returns the outputs of all weighted layers. Calibration depends on the graph up to these only."""
        return tuple(node.output[0] for node in self.members() if self._weight(node))

    def images(self) -> frozenset[str]:
        """Returns the tensors that hold the unchanged image: the graph's inputs, and casts of them."""
        found = {item.name for item in self.proto.graph.input}
        for node in self.proto.graph.node:
            if node.op_type == "Cast" and node.input[0] in found:
                found.add(node.output[0])
        return frozenset(found)

    def _find_nodes(self) -> frozenset[str]:
        waiting = [node for node in self.proto.graph.node if self._weight(node) and not self._is_decode(node)]
        if not waiting:
            raise ExportError("reading the graph: it holds no convolution with constant weights. Check the file.")
        found: set[str] = set()
        while waiting:
            node = waiting.pop()
            if node.name not in found:
                found.add(node.name)
                waiting.extend(self._producers[name] for name in node.input if name in self._producers)
        for node in self.proto.graph.node:
            if node.op_type in _CARRIERS:
                carried = node.input if node.op_type == "Concat" else node.input[:1]
                if all(name in self._producers and self._producers[name].name in found for name in carried):
                    found.add(node.name)
        return frozenset(found)

    def _weight(self, node: Any) -> str | None:
        """Returns the name of a weighted layer's constant weight, or None."""
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            return None
        name = str(node.input[1])
        maker = self._producers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":  # the weight is already INT8
            return name if maker.input[0] in self.constants else None
        return name if name in self.constants else None

    def _is_decode(self, node: Any) -> bool:
        """Returns whether a node multiplies by 0, 1, 2, …, which is the expectation of a distribution, not a layer."""
        values = self.constant(node.input[1])
        return values is not None and values.size <= 64 and np.array_equal(values.ravel(), np.arange(values.size))

    def _find_border(self) -> Iterator[str]:
        outputs = {item.name for item in self.proto.graph.output}
        for node in self.members():
            for name in node.output:
                readers = self._consumers[name]
                outside = name in outputs or any(reader.name not in self.nodes for reader in readers)
                if outside and name not in self.constants and self._computes(node):
                    yield name

    def _computes(self, node: Any) -> bool:
        return node.op_type not in ("Constant", "Shape", "Cast")

    def _find_layers(self) -> Iterator[Layer]:
        depths = self._depths()
        for node in self.members():
            kind, weight = node.op_type, self._weight(node)
            if not any(name in self.floats for name in node.output):
                continue  # shape arithmetic
            if weight is not None and weight not in self.constants:
                continue  # already INT8
            if weight is not None:
                yield Layer(node.name, kind, node.input[0], 0, weight, self._channel_axis(node))
            elif kind == "MaxPool":
                yield Layer(node.name, kind, node.input[0], 0)
            elif kind == "Add" and not any(name in self.constants for name in node.input):
                # A residual sum is fused into the deeper branch's convolution, so only the shortcut is quantized.
                first, second = (depths.get(name, 0) for name in node.input)
                position = 0 if first <= second else 1
                yield Layer(node.name, kind, node.input[position], position)

    def _channel_axis(self, node: Any) -> int:
        """Returns the axis of the output channels in the weight of a layer."""
        if node.op_type == "Conv":
            return 0
        if node.op_type == "Gemm":
            return 0 if any(item.name == "transB" and item.i for item in node.attribute) else 1
        if node.op_type == "MatMul":
            return len(self.constants[node.input[1]].dims) - 1
        return 1  # ConvTranspose

    def _depths(self) -> dict[str, int]:
        """Returns for each tensor the number of nodes on the longest path from the image."""
        depths: dict[str, int] = {}
        for node in self.proto.graph.node:
            depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
            depths.update(dict.fromkeys(node.output, depth))
        return depths
