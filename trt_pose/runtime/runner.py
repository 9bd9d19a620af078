"""The Runner protocol: a context manager that maps named input arrays to named output arrays."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError, UsageError
from ..formats import find_format
from ..limits import usable_cores
from ..spec import ModelSpec

Arrays = Mapping[str, npt.NDArray[Any]]
_MOST_THREADS = 1024
_MOST_RUNS = 8  # each holds the values of a batch between its operators


@dataclass(frozen=True)
class TensorInfo:
    """Element type (NumPy name) and shape of a tensor; None marks a symbolic dimension."""

    dtype: str
    shape: tuple[int | None, ...]


@runtime_checkable
class Runner(Protocol):
    """Protocol of objects that run a model file.

    Attributes:
        spec: the description stored with the file.
        inputs: element type and shape of each input, by name.
        runtime: name and version of the runtime.

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


@runtime_checkable
class TimedRunner(Protocol):
    """A runner that times a query itself, by events on its device."""

    def time_query(self, feeds: Arrays) -> QueryTimes: ...


@runtime_checkable
class ParallelRunner(Protocol):
    """A runner that can be cloned, so that several queries are in flight."""

    def clone(self) -> Runner: ...


@runtime_checkable
class ThroughputRunner(Protocol):
    """A runner on the CPU, where several runs at once, each on some of the cores, get more done than one on all."""

    def for_throughput(self) -> tuple[Runner, int]:
        """Returns a runner of the same file, and how many runs at once it is made for; itself and 1 if it is not."""


@runtime_checkable
class ImageRunner(Protocol):
    """A runner that letterboxes images and packs their predictions on its own device."""

    def pipeline(self) -> Pipeline | None:
        """Returns the pipeline; None when the file does not suit it, and NumPy does both."""


class Pipeline(Protocol):
    """Batches of images to rows of predictions, more than one batch at a time."""

    def submit(self, images: Sequence[npt.NDArray[np.uint8]], threshold: float) -> Any:
        """Starts a batch of images (H, W, 3) uint8 RGB; returns what :meth:`collect` takes."""

    def collect(self, pending: Any) -> list[npt.NDArray[np.float32]]:
        """Waits for a batch; returns rows (K, 5 + the task's extra width) per image, px of the images."""


def check_described(
    spec: ModelSpec, inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo], name: str
) -> None:
    """Raises RunnerError when the tensors of a file are not those of its description.

    Args:
        spec: the description.
        inputs: the inputs of the file.
        outputs: the outputs of the file.
        name: name of the file.
    """
    policy, found = spec.input, dict(outputs)
    sides = (None, None) if policy.takes_any_size else (policy.height, policy.width)
    shapes = {policy.name: (policy.batch, policy.channels, *sides), **find_format(spec).shapes(spec)}
    wrong = [f"it has an input {key}" for key in inputs if key != policy.name]
    if policy.name in inputs:
        found[policy.name] = inputs[policy.name]
        if inputs[policy.name].dtype != policy.dtype:
            wrong.append(f"{policy.name} is {inputs[policy.name].dtype}, not {policy.dtype}")
    for key, shape in shapes.items():
        if key not in found:
            wrong.append(f"it has no {key}")
        elif not _agree(found[key].shape, shape):
            wrong.append(f"{key} has the shape {list(found[key].shape)}, not {list(shape)}")
    if wrong:
        raise RunnerError(f"opening {name}: it is not what its description says: {wrong[0]}. Export it again.")


def _agree(shape: Sequence[int | None], said: Sequence[int | None]) -> bool:
    """Whether two shapes agree, where None is any size."""
    return len(shape) == len(said) and all(None in pair or pair[0] == pair[1] for pair in zip(shape, said, strict=True))


def choose_threads(threads: int | None, name: str) -> int | None:
    """Returns the number of threads for a runtime on the CPU; None when it may take every core of the machine.

    Raises:
        UsageError: the number asked for is below 1, or beyond what a runtime can start.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"opening {name}: got threads={threads}, expected 1 to {_MOST_THREADS}.")
    cores = usable_cores()
    return threads or (cores if cores < (os.cpu_count() or cores) else None)


class Reopening:
    """The file of a runner on the CPU, which may be opened once more for several runs at once.

    Args:
        model: path of the file, or the file's bytes, which are not kept.
        threads: number of threads that the caller chose; None when it chose none.
    """

    def __init__(self, model: str | Path | bytes, threads: int | None) -> None:
        self._chosen = threads is not None
        self.path = Path() if isinstance(model, bytes) else Path(model)
        self._state = None if isinstance(model, bytes) else self._stat()

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def share_cores(self) -> tuple[int, int]:
        """Returns how many runs at once the cores are good for, and the threads for each.

        One run when the threads were chosen, or when the file is gone or another one has taken its place.
        """
        cores = usable_cores()
        runs = 1 if self._chosen or self._state is None or self._stat() != self._state else min(cores, _MOST_RUNS)
        return runs, cores // runs


def check_feeds(
    feeds: Mapping[str, Any], inputs: Mapping[str, TensorInfo], kinds: tuple[type[Any], ...] = (np.ndarray,)
) -> None:
    """Raises RunnerError when names, kinds, element types or shapes do not match the model's inputs."""
    if set(feeds) != set(inputs):
        raise RunnerError(
            f"running the model: got inputs {sorted(feeds)}, expected {sorted(inputs)}."
            " Name the arrays after the inputs."
        )
    for name, info in inputs.items():
        array: Any = feeds[name]
        if not isinstance(array, kinds) or array.dtype.name != info.dtype:
            got = array.dtype.name if isinstance(array, kinds) else type(array).__name__
            raise RunnerError(f"running the model: {name} is {got}, expected a {info.dtype} array. Convert it.")
        fits = len(array.shape) == len(info.shape) and all(
            size > 0 and want in (None, size) for size, want in zip(array.shape, info.shape, strict=False)
        )
        if not fits:
            wanted = " x ".join("any" if want is None else str(want) for want in info.shape)
            raise RunnerError(f"running the model: {name} has shape {array.shape}, expected {wanted}. Reshape it.")


@dataclass(frozen=True)
class QueryTimes:
    """Times of one query.

    Attributes:
        start_s: start on the host, by ``time.perf_counter``.
        end_s: end on the host, by ``time.perf_counter``.
        compute_ms: GPU time of an engine; time of the whole call for other runners.
        enqueue_ms: host time to enqueue the engine; None for other runners.
        h2d_ms: time of the copies to the GPU; None when there are none or they are not measured.
        d2h_ms: time of the copies from the GPU; None when there are none or they are not measured.
    """

    start_s: float
    end_s: float
    compute_ms: float
    enqueue_ms: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None

    @property
    def latency_ms(self) -> float:
        """Sum of copies and compute, as in trtexec."""
        return self.compute_ms + (self.h2d_ms or 0.0) + (self.d2h_ms or 0.0)


def time_query(runner: Runner, feeds: Arrays) -> QueryTimes:
    """Runs one query and times it, by the runner's own ``time_query`` if it has one, else by the host's clock."""
    if isinstance(runner, TimedRunner):
        return runner.time_query(feeds)
    start = time.perf_counter()
    runner.run(feeds)
    end = time.perf_counter()
    return QueryTimes(start, end, (end - start) * 1e3)
