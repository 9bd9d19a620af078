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
    """The noise of changed graphs at tensors of a network, relative to the network, on the same images.

    ``tensors`` are those of its border when None is given.

    Layers that read at positions (Keypoint R-CNN's heads) are given those of the network: with positions of their own
    they would compute other values, and not noisy ones.
    """

    def __init__(self, network: Network, samples: Sequence[Pixels], tensors: Sequence[str] | None = None) -> None:
        self._names, self._samples = network.border if tensors is None else tensors, samples
        runs = list(_run(network.proto, tuple(dict.fromkeys((*self._names, *network.positions))), samples))
        self._given = [{name: run[name] for name in network.positions} for run in runs]
        self._reference = _joined(runs, self._names)

    def of(self, changed: onnx.ModelProto) -> dict[str, float]:
        """Returns the signal-to-noise ratio per tensor, dB."""
        return {name: signal_to_noise(*values) for name, values in self.values(changed).items()}

    def values(self, changed: onnx.ModelProto) -> dict[str, tuple[Values, Values]]:
        """Returns the values of each tensor over all images, flattened, in the network and in ``changed``."""
        found = _joined(_run(changed, self._names, self._samples, self._given), self._names)
        return {name: (self._reference[name], found[name]) for name in self._names}


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
    network = Network(one)
    tensors = [name for name in network.all_activations() if name in names]
    if not tensors:
        raise CalibrationError(f"comparing {first} and {second}: they share no tensor. Compare files of one export.")
    samples = [next(open_batches(images, read_spec(one).input, images=1))[:1]]
    noise = {}
    for name, values in Noise(network, samples, tensors).values(other).items():
        try:
            noise[name] = signal_to_noise(*values)
        except CalibrationError:  # NaN or infinity counts as worse than any noise
            noise[name] = float("-inf")
    return dict(sorted(noise.items(), key=lambda item: item[1]))
