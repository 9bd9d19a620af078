"""Quantization-aware fine-tuning of an exported file: torch runs the ONNX graph with fake quantizers.

The fake quantizers are at the places where ``quantization.qdq`` inserts QuantizeLinear and DequantizeLinear. The
resulting INT8 file has the same nodes and activation scales as a post-training one; only weights and their scales
differ. Activation ranges are calibrated once and fixed; weight ranges follow the weights during training (the recipe of
NVIDIA's white paper, https://arxiv.org/abs/2004.09602).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from ..choices import Precision
from ..errors import ExportError, UsageError
from ..graphs.file import describe, read_spec, save
from ..models.body import STRIDES
from ..models.layers import BINS
from ..models.model import PoseModel
from ..models.processing import Processing
from ..quantization.calibrate import calibrate
from ..quantization.network import Layer, Network
from ..quantization.qdq import INT8_MAX, fp16_exact_scale, quantize_layers
from ..quantization.quantize import QuantizationReport, QuantizeOptions, SampleBuffer
from ..quantization.snr import Noise
from ..spec import ModelSpec, Normalization


class QuantizedPose(PoseModel):
    """An exported pose network as a module with fake-quantized inputs and weights of its INT8 layers.

    ``forward`` takes (B, 3, H, W) float32 RGB in 0..255 at the file's size and returns the raw heads, as
    :class:`trt_pose.models.yolo_nas_pose.network.YoloNASPose` does.

    Args:
        proto: an FP32 ONNX model of a YOLO-NAS-Pose.
        data: images for the calibration, see :func:`trt_pose.quantization.open_batches`.
        options: the layers to quantize, and the calibration.

    Raises:
        UsageError: the file is already quantized, has no pre-processing, or is another kind of model.
        ExportError: the graph has an operator that training does not support.
        CalibrationError: the images are missing or invalid.
    """

    strides = STRIDES

    def __init__(self, proto: onnx.ModelProto, data: Any, options: QuantizeOptions | None = None) -> None:
        spec = read_spec(proto)
        _check(spec)
        super().__init__(spec.model, _processing(spec), spec.skeleton.num_joints)
        self.processing = _processing(spec)
        options = options or QuantizeOptions()
        network = Network(proto)
        self.spec, self._proto = spec, network.proto
        self.layers: tuple[Layer, ...] = tuple(options.selective.choose(network.layers))
        cache = calibrate(network, network.activations(), data, options.calibration, options.cache)
        self.cache = cache
        self.weights = f"{cache.model} on {cache.data}"  # must be the same when a training run is resumed
        self._scales = {name: float(fp16_exact_scale(np.array(value))) for name, value in cache.thresholds.items()}
        chosen = {layer.name: layer for layer in self.layers}
        self._steps = [_Step.of(node, chosen.get(node.name)) for node in network.members()]
        self._images = network.images()
        self._keys: dict[str, str] = {}
        self._shapes: dict[str, list[int]] = {}
        for step in self._steps:
            for name in step.inputs:
                self._adopt(name, network.constant(name))
        self._heads = _find_heads(self, network)

    def _adopt(self, name: str, value: Any) -> None:
        """Stores a constant: floats as a parameter, int64 values as a shape."""
        if value is None or name in self._keys or name in self._shapes:
            return
        if value.dtype == np.int64:
            self._shapes[name] = [int(side) for side in value]
            return
        key = f"constant_{len(self._keys)}"  # ONNX names may contain dots, parameter names may not
        self.register_parameter(key, nn.Parameter(torch.from_numpy(np.array(value, np.float32))))
        self._keys[name] = key

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = self.run(x)
        logits, distances, offsets = (values[name] for name in self._heads)
        return logits, distances, offsets

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the network on (B, 3, H, W) float32 and returns all its tensors by ONNX name."""
        values = dict.fromkeys(self._images, x)
        seen: dict[str, Tensor] = {}  # fake-quantized activations
        for step in self._steps:
            if step.kind == "Cast":
                continue  # the cast of the image; x is float already
            inputs = [values[name] if name in values else self._constant(name) for name in step.inputs]
            if step.layer is not None:
                name, place = step.layer.activation, step.layer.position
                if name not in seen:
                    seen[name] = torch.fake_quantize_per_tensor_affine(values[name], self._scales[name], 0, -128, 127)
                inputs[place] = seen[name]
                if step.layer.weight is not None:
                    inputs[1] = quantized_weight(inputs[1], step.layer.axis)
            values[step.output] = _OPERATORS[step.kind](inputs, step.attributes)
        return values

    def _constant(self, name: str) -> Any:
        return self._shapes[name] if name in self._shapes else getattr(self, self._keys[name])

    def tuned(self) -> onnx.ModelProto:
        """Returns the FP32 model with the current weights."""
        made = onnx.ModelProto()
        made.CopyFrom(self._proto)
        for item in made.graph.initializer:
            if item.name in self._keys:
                value = getattr(self, self._keys[item.name]).detach().cpu().numpy()
                item.CopyFrom(numpy_helper.from_array(value.astype(np.float32), item.name))
        return made

    def write(self, output: str | Path) -> QuantizationReport:
        """Writes an INT8 file with the current weights, atomically, and returns its report."""
        tuned = self.tuned()
        network = Network(tuned)
        made = quantize_layers(network, self.layers, self.cache.thresholds)
        report = QuantizationReport(
            precision=Precision.INT8,
            method=f"{self.cache.method}, fine-tuned",
            images=self.cache.images,
            int8_layers=len(self.layers),
            layers=len(network.layers),
            kept={layer.name: "excluded" for layer in network.layers if layer not in self.layers},
            noise_db=Noise(network, SampleBuffer(None, self.spec).samples()).of(made),
        )
        describe(made, self.spec, str(report.precision), str(report))
        save(made, output)
        return report


def _check(spec: ModelSpec) -> None:
    if spec.task != "pose" or spec.precision != Precision.FP32 or not spec.input.normalized_in_graph:
        raise UsageError(
            f"fine-tuning {spec.model}: got a {spec.task} file in {spec.precision}; expected the FP32 file of a"
            " YOLO-NAS-Pose with its pre-processing inside. Export one with trt-pose export."
        )


def _processing(spec: ModelSpec) -> Processing:
    """Returns the file's processing without the photometric step, which is in the graph."""
    plain = replace(spec.input, normalization=Normalization(std=(1.0, 1.0, 1.0)))
    return Processing(plain, spec.skeleton)


def _find_heads(model: QuantizedPose, network: Network) -> tuple[str, ...]:
    """Returns the names of the logits, distances and offsets, identified by their numbers of channels."""
    size = model.processing.input
    with torch.no_grad():
        values = model.run(torch.zeros(1, size.channels, size.height, size.width))
    maps = [name for name in network.border if values[name].ndim == 3]
    heads = []
    for channels in (1 + model.num_joints, 4 * BINS, 2 * model.num_joints):
        fitting = [name for name in maps if values[name].shape[1] == channels and name not in heads]
        if len(fitting) != 1:
            raise UsageError(
                f"fine-tuning {model.name}: {len(fitting)} outputs before the decode have {channels} channels, one was"
                " expected. Export a YOLO-NAS-Pose with trt-pose export (not of 1, 34 or 67 joints)."
            )
        heads.append(fitting[0])
    return tuple(heads)


def quantized_weight(weight: Tensor, axis: int) -> Tensor:
    """Returns a fake-quantized weight, per channel along ``axis``, with a straight-through gradient."""
    with torch.no_grad():
        wanted = (
            weight.detach().double().abs().amax([index for index in range(weight.ndim) if index != axis]) / INT8_MAX
        )
        scale = wanted.half()
        # Rounds up to the next FP16 number, as fp16_exact_scale does: for a positive float the next bit pattern.
        above = (scale.view(torch.int16) + 1).view(torch.float16)
        scale = torch.where(scale.double() < wanted, above, scale).float()
        scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -127, 127)


@dataclass(frozen=True)
class _Step:
    """One node of the graph in a form that torch can run."""

    kind: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]
    layer: Layer | None

    @classmethod
    def of(cls, node: Any, layer: Layer | None) -> _Step:
        if node.op not in (*_OPERATORS, "Cast"):
            raise ExportError(
                f"fine-tuning: the graph holds {node.op} ({node.name}), which training has no form of. Export a"
                " YOLO-NAS-Pose with trt-pose export."
            )
        inputs = [tensor.name for tensor in node.inputs]
        return cls(node.op, inputs, node.outputs[0].name, dict(node.attrs), layer)


def _convolve(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    data = x[0] if (top, left) == (bottom, right) else F.pad(x[0], (left, right, top, bottom))
    padding = (top, left) if (top, left) == (bottom, right) else 0
    bias = x[2] if len(x) > 2 else None
    return F.conv2d(data, x[1], bias, a.get("strides", 1), padding, a.get("dilations", 1), a.get("group", 1))


def _up_convolve(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    bias = x[2] if len(x) > 2 else None
    padding, extra = tuple(a.get("pads", (0, 0)))[:2], tuple(a.get("output_padding", (0, 0)))
    return F.conv_transpose2d(x[0], x[1], bias, a.get("strides", 1), padding, extra, a.get("group", 1))


def _pool(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    kernel = a["kernel_shape"]
    return F.max_pool2d(x[0], kernel, a.get("strides", kernel), tuple(a.get("pads", (0, 0)))[:2])


def _reshape(x: list[Any], _: Mapping[str, Any]) -> Tensor:
    return x[0].reshape(x[0].shape[0], *x[1][1:])  # type: ignore[no-any-return]  # independent of the exported batch


_OPERATORS: dict[str, Callable[[list[Any], Mapping[str, Any]], Tensor]] = {
    "Conv": _convolve,
    "ConvTranspose": _up_convolve,
    "MaxPool": _pool,
    "Reshape": _reshape,
    "Relu": lambda x, _: F.relu(x[0]),
    "Add": lambda x, _: x[0] + x[1],
    "Mul": lambda x, _: x[0] * x[1],
    "Concat": lambda x, a: torch.cat(x, a["axis"]),
}
