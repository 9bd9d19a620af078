"""The Runner contract: dict of named arrays in, dict of named arrays out, a context manager around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError
from ..spec import ModelSpec

Arrays = Mapping[str, npt.NDArray[Any]]


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
        runtime: what runs it, name and version.

    ``run`` may be called from several threads; after ``close`` it raises RunnerError.
    """

    spec: ModelSpec
    inputs: dict[str, TensorInfo]
    runtime: str

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


@dataclass(frozen=True)
class QueryTimes:
    """What one query took.

    Attributes:
        start_s, end_s: on the host, by ``time.perf_counter``.
        compute_ms: of the kernels of an engine, of the whole call of other runners.
        enqueue_ms, h2d_ms, d2h_ms: host time to enqueue, copies to and from the GPU; None where there is no such stage.
    """

    start_s: float
    end_s: float
    compute_ms: float
    enqueue_ms: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None

    @property
    def latency_ms(self) -> float:
        """Copies and compute, as trtexec adds them up."""
        return self.compute_ms + (self.h2d_ms or 0.0) + (self.d2h_ms or 0.0)


def time_query(runner: Runner, feeds: Arrays) -> QueryTimes:
    """Runs one query and times it: by the runner's own events where it has them, else by the host's clock."""
    measure: Callable[[Arrays], QueryTimes] | None = getattr(runner, "time_query", None)
    if measure is not None:
        return measure(feeds)
    start = time.perf_counter()
    runner.run(feeds)
    end = time.perf_counter()
    return QueryTimes(start, end, (end - start) * 1e3)
