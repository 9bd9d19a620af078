"""Signal-to-noise ratio of a quantized graph relative to its source, per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..errors import CalibrationError
from ..graphs.file import load, read_spec
from ..graphs.surgery import extract_subgraph
from ..runtime.ort import OnnxRunner
from .batches import Pixels, feeds, open_batches
from .network import Network

Values = npt.NDArray[np.float64]


def noise_between(
    first: onnx.ModelProto, second: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Pixels]
) -> dict[str, float]:
    """Returns the signal-to-noise ratio per tensor, dB, where the noise is the second graph minus the first."""
    one, other = compute(first, tensors, samples), compute(second, tensors, samples)
    return {name: signal_to_noise(one[name], other[name]) for name in tensors}


def compute(proto: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Pixels]) -> dict[str, Values]:
    """Runs a graph up to ``tensors``; returns the values of each over all samples, flattened."""
    with OnnxRunner(extract_subgraph(proto, tensors).SerializeToString(), providers=["cpu"]) as runner:
        inputs = runner.spec.input
        runs = [runner.run({inputs.name: images}) for images, _ in feeds(samples, inputs)]
    return {name: np.concatenate([np.ravel(outputs[name]) for outputs in runs]).astype(np.float64) for name in tensors}


def signal_to_noise(reference: Values, value: Values) -> float:
    """Returns the power of ``reference`` over the power of the difference, dB; infinite when they are equal.

    Raises:
        CalibrationError: the difference is NaN or infinite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        noise = float(np.square(reference - value).sum())
    signal = float(np.square(reference).sum())
    if not np.isfinite(noise):
        raise CalibrationError(
            "measuring the noise: the changed graph gives NaN or infinity: values overflow FP16, or the calibration saw"
            " no image like these. Give more images, so that the nodes to keep in FP32 are found."
        )
    if noise == 0.0:
        return float("inf")
    return 10.0 * float(np.log10(signal / noise)) if signal else float("-inf")


def shared_noise(first: str | Path, second: str | Path, images: Any) -> dict[str, float]:
    """Returns the signal-to-noise ratio of each tensor that two files share, dB, on the first image; worst first.

    Raises:
        ExportError: a file is not valid ONNX.
        CalibrationError: the files share no tensor.
    """
    one, other = load(first), load(second)
    names = {name for node in other.graph.node for name in node.output}
    tensors = [name for name in Network(one).all_activations() if name in names]
    if not tensors:
        raise CalibrationError(f"comparing {first} and {second}: they share no tensor. Compare files of one export.")
    samples = [next(open_batches(images, read_spec(one).input, images=1))[:1]]
    first_values, second_values = compute(one, tensors, samples), compute(other, tensors, samples)
    noise = {}
    for name in tensors:
        try:
            noise[name] = signal_to_noise(first_values[name], second_values[name])
        except CalibrationError:  # NaN or infinity counts as worse than any noise
            noise[name] = float("-inf")
    return dict(sorted(noise.items(), key=lambda item: item[1]))
