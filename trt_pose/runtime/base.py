"""The Runner contract: dict of named arrays in, dict of named arrays out, a context manager around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError
from ..types import ModelSpec

Arrays = Mapping[str, npt.NDArray[Any]]

# Output tensor names of the output contract (CONTRIBUTING.md).
FLAT_OUTPUTS = ("flat_predictions",)
_WHAT = {"pose": ("pred_joints",), "detection": ("pred_classes",)}


def batch_outputs(task: str) -> tuple[str, ...]:
    return ("num_predictions", "pred_boxes", "pred_scores", *_WHAT[task])


def raw_outputs(task: str) -> tuple[str, ...]:
    """Of a file without selection: the scores of a detection model are those of all classes."""
    return ("pred_boxes", "pred_scores", *(_WHAT[task] if task == "pose" else ()))


@dataclass(frozen=True)
class TensorInfo:
    """Element type (NumPy name) and shape of a tensor; None marks a symbolic dimension."""

    dtype: str
    shape: tuple[int | None, ...]


@runtime_checkable
class Runner(Protocol):
    """What runs a model file.

    Attributes:
        spec: the description stored with the file.
        inputs: name to element type and shape.

    ``run`` may be called from several threads; after ``close`` it raises RunnerError.
    """

    spec: ModelSpec
    inputs: dict[str, TensorInfo]

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[Any]]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def check_feeds(feeds: Arrays, inputs: Mapping[str, TensorInfo]) -> None:
    """Raises RunnerError when names, element types or shapes are not the model's."""
    if set(feeds) != set(inputs):
        raise RunnerError(
            f"running the model: got inputs {sorted(feeds)}, expected {sorted(inputs)}."
            " Name the arrays after the inputs."
        )
    for name, info in inputs.items():
        array = feeds[name]
        if not isinstance(array, np.ndarray) or array.dtype.name != info.dtype:
            got = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
            raise RunnerError(f"running the model: {name} is {got}, expected a {info.dtype} array. Convert it.")
        fits = array.ndim == len(info.shape) and all(
            size > 0 and want in (None, size) for size, want in zip(array.shape, info.shape, strict=False)
        )
        if not fits:
            wanted = " x ".join("any" if want is None else str(want) for want in info.shape)
            raise RunnerError(f"running the model: {name} has shape {array.shape}, expected {wanted}. Reshape it.")
