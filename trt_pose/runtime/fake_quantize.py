"""Quantizers of a model in the form that OpenVINO executes in INT8.

A file has QuantizeLinear and DequantizeLinear around INT8 values, as TensorRT wants them: symmetric, at the inputs of
layers. OpenVINO reads such a graph, but its INT8 passes then compute something else: behind concatenations they take
signed ranges for unsigned ones, and the heads of the demonstration model lose 6 dB against ONNX Runtime
(benchmarks/results/cpu_backends.md). What they compute exactly, and without a step between two convolutions, is what
NNCF (https://github.com/openvinotoolkit/nncf) writes, and what this module makes:

- one ``FakeQuantize`` in place of each pair, and one per tensor, with the widest of the ranges that are asked of it;
- from zero where no value can be negative, so that all 256 levels are used;
- in front of concatenations, max pools and products with a scalar, if everything that reads them is quantized.

The ranges are those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino
from openvino import opset13

_LEVELS = 256
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "SoftMax", "Softmax")
_KEEP_SIGN = ("Concat", "MaxPool", "Convert", "Add", "Multiply", "FakeQuantize")


@dataclass
class _Wanted:
    """The quantizers of one tensor: their common range, and the inputs that read the quantized values."""

    tensor: Any
    low: float = 0.0
    high: float = 0.0
    inputs: list[Any] = field(default_factory=list)


class Quantizers:
    """The quantizers of a model, which are taken out of it and put back in another form.

    Args:
        model: a model as OpenVINO's ONNX reader makes it; changed in place.
    """

    def __init__(self, model: openvino.Model) -> None:
        self._model = model
        self._wanted: dict[tuple[str, int], _Wanted] = {}

    def rewrite(self) -> None:
        """Replaces the quantizers of activations."""
        for node in self._model.get_ordered_ops():
            if node.get_type_name() == "FakeQuantize":
                self._take_out(node)
        for node in reversed(self._model.get_ordered_ops()):
            self._move_up(node)
        # Signs first: they are those of the tensors without quantizers.
        lows = {name: 0.0 if _is_never_negative(wanted.tensor) else wanted.low for name, wanted in self._wanted.items()}
        for name, wanted in self._wanted.items():
            _insert(wanted, lows[name])
        self._model.validate_nodes_and_infer_types()

    def _ask(self, tensor: Any, low: float, high: float, inputs: list[Any]) -> None:
        wanted = self._wanted.setdefault(_key(tensor), _Wanted(tensor))
        wanted.low, wanted.high = min(wanted.low, low), max(wanted.high, high)
        wanted.inputs += inputs

    def _take_out(self, node: Any) -> None:
        """Removes QuantizeLinear and DequantizeLinear: here FakeQuantize to levels, conversions, and a product."""
        low, high = (node.input_value(index).get_node() for index in (1, 2))
        if any(bound.get_type_name() != "Constant" or bound.data.size != 1 for bound in (low, high)):
            return
        levels = _only_reader(node)
        if levels is None or levels.get_type_name() != "Convert":
            return
        ends = [_dequantized(reader.get_node()) for reader in _readers(levels.output(0))]
        if None in ends:
            return
        tensor, inputs = node.input_value(0), [reader for end in ends for reader in _readers(end)]
        source, element = tensor.get_node(), ends[0].get_element_type()
        if source.get_type_name() == "Convert" and source.input_value(0).get_element_type() == element:
            tensor = source.input_value(0)  # FakeQuantize takes FP32 in a graph of FP16
        for reader in [reader for end in ends for reader in end.get_target_inputs()]:
            reader.replace_source_output(tensor)
        self._ask(tensor, float(low.data.flat[0]), float(high.data.flat[0]), inputs)

    def _move_up(self, node: Any) -> None:
        """Moves the quantizer behind an operator to its inputs, if nothing reads the result unquantized."""
        kind = node.get_type_name()
        if kind not in ("Concat", "MaxPool", "Multiply"):
            return
        output = node.output(0)
        wanted = self._wanted.get(_key(output))
        if wanted is None or len(_readers(output)) != len(wanted.inputs):
            return
        factor, inputs = 1.0, node.inputs() if kind == "Concat" else [node.input(0)]
        if kind == "Multiply":
            scaled = _scaled_input(node)
            if scaled is None:
                return
            factor, inputs = scaled[0], [scaled[1]]
        del self._wanted[_key(output)]
        low, high = sorted((wanted.low / factor, wanted.high / factor))
        for reader in inputs:
            self._ask(reader.get_source_output(), low, high, [reader])


def _key(tensor: Any) -> tuple[str, int]:
    return tensor.get_node().get_friendly_name(), tensor.get_index()


def _readers(tensor: Any) -> list[Any]:
    """Returns the inputs that read a tensor's values, not only its shape."""
    return [reader for reader in tensor.get_target_inputs() if reader.get_node().get_type_name() != "ShapeOf"]


def _only_reader(node: Any) -> Any:
    """Returns the node that alone reads a node's result, or None."""
    readers = _readers(node.output(0))
    return readers[0].get_node() if len(readers) == 1 else None


def _dequantized(node: Any) -> Any:
    """Returns the result of the DequantizeLinear that begins with ``node``, or None; a product is its last step."""
    while node is not None and node.get_type_name() in ("Convert", "Subtract"):
        node = _only_reader(node)
    return node.output(0) if node is not None and node.get_type_name() == "Multiply" else None


def _scaled_input(node: Any) -> tuple[float, Any] | None:
    """Returns the scalar that a product multiplies by, if it is a constant other than zero, and its other input."""
    for constant, other in ((0, 1), (1, 0)):
        value = node.input_value(constant).get_node()
        while value.get_type_name() == "Convert":
            value = value.input_value(0).get_node()
        if value.get_type_name() == "Constant" and value.data.size == 1 and float(value.data.flat[0]):
            return float(value.data.flat[0]), node.input(other)
    return None


def _is_never_negative(tensor: Any) -> bool:
    """Whether the operators before a tensor say that it holds no negative value."""
    node = tensor.get_node()
    kind = node.get_type_name()
    if kind in _NEVER_NEGATIVE:
        return True
    if kind == "Constant":
        return bool((node.data >= 0).all())
    if kind == "Parameter":
        return bool(tensor.get_element_type() == openvino.Type.u8)
    sources = node.input_values()[:1] if kind in ("MaxPool", "Convert") else node.input_values()
    return kind in _KEEP_SIGN and all(map(_is_never_negative, sources))


def _insert(wanted: _Wanted, low: float) -> None:
    """Puts one FakeQuantize between a tensor and its readers; values and range are FP32."""
    tensor, element = wanted.tensor, wanted.tensor.get_element_type()
    wide = tensor if element == openvino.Type.f32 else opset13.convert(tensor, openvino.Type.f32)
    bounds = [opset13.constant(np.float32(value)) for value in _with_zero(low, wanted.high)]
    quantized = opset13.fake_quantize(wide, *bounds, *bounds, _LEVELS)
    quantized.set_friendly_name(f"{tensor.get_node().get_friendly_name()}/{tensor.get_index()}/quantized")
    result = quantized if element == openvino.Type.f32 else opset13.convert(quantized, element)
    for reader in wanted.inputs:
        reader.replace_source_output(result.output(0))


def _with_zero(low: float, high: float) -> tuple[float, float]:
    """Widens a range, low <= 0 <= high, until zero is one of its levels: padding is zero, and must stay so."""
    steps = _LEVELS - 1
    if low == 0.0 or high == 0.0:
        return low, high
    below = min(max(round(-low / (high - low) * steps), 1), steps - 1)  # levels below zero
    scale = max(-low / below, high / (steps - below))
    return -scale * below, scale * (steps - below)
