"""Explicit INT8: QuantizeLinear and DequantizeLinear where TensorRT fuses them; one graph for all backends.

Quantization is symmetric, with zero point 0. Activations have one scale per tensor. Weights have one scale per output
channel and are stored as INT8. Biases stay in FP32. Quantizers are placed at the inputs of weighted layers and max
pools, and at the shortcut of a residual sum. The other branch of the sum reads the convolution's result directly.
Concatenations have no quantizers, so the scales of their readers pass through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..errors import CalibrationError
from ..graphs.surgery import to_model
from .network import Layer, Network

INT8_MAX = 127.0
# First operator set in which DequantizeLinear takes one scale per channel.
_LEAST_OPSET = 13


def quantize_layers(network: Network, layers: Iterable[Layer], thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """Returns a copy of the graph in which ``layers`` run in INT8.

    Args:
        network: the FP32 graph; not changed.
        layers: those of ``network.layers`` to quantize.
        thresholds: magnitude that maps to 127, by tensor name; 0.0 for a tensor that is always zero.

    Raises:
        CalibrationError: a threshold is missing or too large for FP16, or the operator set is older than 13.
    """
    if opset(network.proto) < _LEAST_OPSET:
        raise CalibrationError(
            f"quantizing: the file's operator set is {opset(network.proto)}, INT8 per channel needs {_LEAST_OPSET} or"
            " more. Export it again with a newer one."
        )
    chosen = {layer.name: layer for layer in layers}
    lacking = sorted({layer.activation for layer in chosen.values()} - set(thresholds))
    if lacking:
        raise CalibrationError(
            f"quantizing: no threshold for {lacking[0]} and {len(lacking) - 1} more. Calibrate again."
        )
    graph, quantizers, nodes = network.graph.copy(), _Quantizers(thresholds), list[gs.Node]()
    for node in graph.nodes:
        layer = chosen.get(node.name)
        if layer is not None:
            node.inputs[layer.position] = quantizers.activation(node.inputs[layer.position])
            if layer.weight is not None:
                node.inputs[1] = quantizers.weight(node.inputs[1], layer.axis)
        nodes += [*quantizers.new_nodes, node]
        quantizers.new_nodes.clear()
    graph.nodes = nodes
    return to_model(graph.cleanup(remove_unused_graph_inputs=False), network.proto)


def opset(proto: onnx.ModelProto) -> int:
    """Returns the version of the ONNX operator set that a model uses."""
    return max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=0)


def fp16_exact_scale(threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Returns the scales of INT8 tensors, (C,) or (): ``threshold / 127`` rounded up to an FP16 number.

    The FP32 and the FP16 form of the graph can then use the same INT8 weights. A scale of 0 becomes 1.
    """
    wanted = np.asarray(threshold, np.float64) / INT8_MAX
    with np.errstate(over="ignore"):  # the caller rejects infinite scales
        scale = wanted.astype(np.float16)
    scale = np.where(scale.astype(np.float64) < wanted, np.nextafter(scale, np.float16(np.inf)), scale)
    return np.where(scale > 0, scale, np.float16(1.0)).astype(np.float32)


class _Quantizers:
    """The quantized tensors of one graph, each made once."""

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self._thresholds = thresholds
        self._made: dict[tuple[str, int], gs.Variable] = {}  # tensor name and axis (-1: per tensor)
        self.new_nodes: list[gs.Node] = []

    def activation(self, tensor: gs.Tensor) -> gs.Variable:
        """Returns an activation after QuantizeLinear and DequantizeLinear."""
        name = tensor.name
        if (name, -1) not in self._made:
            scale = fp16_exact_scale(np.array(self._thresholds[name]))
            if np.isinf(scale):
                raise CalibrationError(
                    f"quantizing {name}: its threshold {self._thresholds[name]:.3g} exceeds FP16. Exclude it."
                )
            parameters = [gs.Constant(f"{name}/scale", scale), gs.Constant(f"{name}/zero", np.array(0, np.int8))]
            quantized = self._node("QuantizeLinear", [tensor, *parameters], f"{name}/quantized")
            self._made[name, -1] = self._node("DequantizeLinear", [quantized, *parameters], f"{name}/dequantized")
        return self._made[name, -1]

    def weight(self, tensor: gs.Constant, axis: int) -> gs.Variable:
        """Returns a weight that is stored in INT8, per channel along ``axis``, after DequantizeLinear."""
        name = tensor.name
        if (name, axis) not in self._made:
            values = np.asarray(tensor.values).astype(np.float64)
            others = tuple(index for index in range(values.ndim) if index != axis)
            scale = fp16_exact_scale(np.abs(values).max(axis=others))
            along = scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
            quantized = np.clip(np.rint(values / along), -INT8_MAX, INT8_MAX).astype(np.int8)
            base = f"{name}/axis{axis}"
            inputs = [
                gs.Constant(f"{base}/quantized", quantized),
                gs.Constant(f"{base}/scale", scale),
                gs.Constant(f"{base}/zero", np.zeros(len(scale), np.int8)),
            ]
            self._made[name, axis] = self._node("DequantizeLinear", inputs, f"{base}/dequantized", axis=axis)
        return self._made[name, axis]

    def _node(self, operator: str, inputs: list[gs.Tensor], output: str, **attributes: int) -> gs.Variable:
        made = gs.Variable(output)
        self.new_nodes.append(gs.Node(operator, f"{output}/{operator}", attributes, inputs, [made]))
        return made


def quantized_layers(proto: onnx.ModelProto) -> int:
    """Returns the number of weighted layers that read INT8 weights."""
    int8 = {item.name for item in proto.graph.initializer if item.data_type == TensorProto.INT8}
    weights = {
        node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in int8
    }
    return sum(len(node.input) > 1 and node.input[1] in weights for node in proto.graph.node)
