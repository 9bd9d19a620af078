"""Explicit INT8: QuantizeLinear and DequantizeLinear where TensorRT fuses them; one graph for all backends.

Quantization is symmetric, with zero point 0. Activations have one scale per tensor. Weights have one scale per output
channel and are stored as INT8. Biases stay in FP32. Quantizers are placed at the inputs of weighted layers and max
pools, and at the shortcut of a residual sum. The other branch of the sum reads the convolution's result directly.
Concatenations have no quantizers, so the scales of their readers pass through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import CalibrationError
from ..graphs.surgery import replace_nodes
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
    return _Writer(network, chosen, thresholds).write()


def opset(proto: onnx.ModelProto) -> int:
    """Returns the version of the ONNX operator set that a model uses."""
    return max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=0)


def half_scale(threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Returns the scales of INT8 tensors, (C,) or (): ``threshold / 127`` rounded up to an FP16 number.

    The FP32 and the FP16 form of the graph can then use the same INT8 weights. A scale of 0 becomes 1.
    """
    wanted = np.asarray(threshold, np.float64) / INT8_MAX
    with np.errstate(over="ignore"):  # the caller rejects infinite scales
        scale = wanted.astype(np.float16)
    scale = np.where(scale.astype(np.float64) < wanted, np.nextafter(scale, np.float16(np.inf)), scale)
    return np.where(scale > 0, scale, np.float16(1.0)).astype(np.float32)


class _Writer:
    """A single rewrite of a graph."""

    def __init__(self, network: Network, layers: Mapping[str, Layer], thresholds: Mapping[str, float]) -> None:
        self._network, self._layers, self._thresholds = network, layers, thresholds
        self._proto = onnx.ModelProto()
        self._proto.CopyFrom(network.proto)
        self._ready: dict[
            tuple[str, int], str
        ] = {}  # tensor and axis (-1 for activations) to the name of the dequantized tensor
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        graph = self._proto.graph
        for node in graph.node:
            layer = self._layers.get(node.name)
            if layer is not None:
                node.input[layer.position] = self._activation(layer.activation)
                if layer.weight is not None:
                    node.input[1] = self._weight(layer.weight, layer.axis)
            self._nodes.append(node)
        replace_nodes(graph, self._nodes)
        return self._proto

    def _activation(self, name: str) -> str:
        if (name, -1) not in self._ready:
            scale = half_scale(np.array(self._thresholds[name]))
            if np.isinf(scale):
                raise CalibrationError(
                    f"quantizing {name}: its threshold {self._thresholds[name]:.3g} exceeds FP16. Exclude it."
                )
            self._constant(f"{name}/scale", scale)
            self._constant(f"{name}/zero", np.array(0, np.int8))
            parameters = [f"{name}/scale", f"{name}/zero"]
            self._node("QuantizeLinear", [name, *parameters], f"{name}/quantized")
            self._node("DequantizeLinear", [f"{name}/quantized", *parameters], f"{name}/dequantized")
            self._ready[name, -1] = f"{name}/dequantized"
        return self._ready[name, -1]

    def _weight(self, name: str, axis: int) -> str:
        if (name, axis) not in self._ready:
            values = numpy_helper.to_array(self._network.constants[name]).astype(np.float64)
            others = tuple(index for index in range(values.ndim) if index != axis)
            scale = half_scale(np.abs(values).max(axis=others))
            along = scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
            quantized = np.clip(np.rint(values / along), -INT8_MAX, INT8_MAX).astype(np.int8)
            base = f"{name}/axis{axis}"
            self._constant(f"{base}/quantized", quantized)
            self._constant(f"{base}/scale", scale)
            self._constant(f"{base}/zero", np.zeros(len(scale), np.int8))
            inputs = [f"{base}/quantized", f"{base}/scale", f"{base}/zero"]
            self._node("DequantizeLinear", inputs, f"{base}/dequantized", axis=axis)
            self._ready[name, axis] = f"{base}/dequantized"
        return self._ready[name, axis]

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> None:
        self._proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))


def quantized_layers(proto: onnx.ModelProto) -> int:
    """Returns the number of weighted layers that read INT8 weights."""
    int8 = {item.name for item in proto.graph.initializer if item.data_type == TensorProto.INT8}
    weights = {
        node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in int8
    }
    return sum(len(node.input) > 1 and node.input[1] in weights for node in proto.graph.node)
