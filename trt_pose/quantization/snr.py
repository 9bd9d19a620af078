"""Signal-to-noise ratio of a quantized graph relative to its source, per tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Noise:
    """The noise of changed graphs at the border of a network, relative to the network, on the same images.

    Layers that read at positions (Keypoint R-CNN's heads) are given those of the network: with positions of their own
    they would compute other values, and not noisy ones.
    """

    def __init__(self, network: Network, samples: Sequence[Pixels]) -> None:
        self._names, self._samples = network.border, samples
        runs = list(_run(network.proto, (*network.border, *network.positions), samples))
        self._given = [{name: run[name] for name in network.positions} for run in runs]
        self._reference = _joined(runs, network.border)

    def of(self, changed: onnx.ModelProto) -> dict[str, float]:
        """Returns the signal-to-noise ratio per tensor of the border, dB."""
        found = _joined(_run(changed, self._names, self._samples, self._given), self._names)
        return {name: signal_to_noise(self._reference[name], found[name]) for name in self._names}


def compute(proto: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Pixels]) -> dict[str, Values]:
    """Runs a graph up to ``tensors``; returns the values of each over all samples, flattened."""
    return _joined(_run(proto, tensors, samples), tensors)


def _run(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Sequence[Pixels],
    given: Sequence[Mapping[str, npt.NDArray[Any]]] = (),
) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Runs a graph up to ``tensors`` on each sample, with the values ``given`` for it in place of computed ones."""
    part = extract_subgraph(proto, tensors, given[0] if given else None)
    with OnnxRunner(part.SerializeToString(), providers=["cpu"]) as runner:
        inputs = runner.spec.input
        for place, (images, _) in enumerate(feeds(samples, inputs)):
            yield runner.run({inputs.name: images, **(given[place] if given else {})})


def _joined(runs: Iterable[Mapping[str, npt.NDArray[Any]]], tensors: Sequence[str]) -> dict[str, Values]:
    kept = list(runs)
    return {name: np.concatenate([np.ravel(run[name]) for run in kept]).astype(np.float64) for name in tensors}


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
