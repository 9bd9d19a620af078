"""A GPU and what a runner has on it: streams, events and memory, by cuda.core, and CUDA graphs.

Some calls go to cuda.bindings. cuda.core makes a context current but does not restore the one before, so contexts are
pushed and popped here; it does not look up the context of a foreign address, nor pass a structure to a kernel by value
(kernels.py); :class:`Graph` has its own reason. The context is the primary one, which torch, cupy and TensorRT share.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, PoseError, RunnerError
from ..optional import require

if TYPE_CHECKING:
    from cuda.core import Buffer, Event, Stream

Bytes = npt.NDArray[np.uint8]


class Device:
    """The primary context of one GPU.

    Attributes:
        gpu: name and compute capability, see :func:`find_gpu`.
        index: number of the GPU.

    Any thread may use it, within :meth:`current`.

    Raises:
        RunnerError: no GPU or no driver.
        MissingDependencyError: cuda-core is not installed.
    """

    def __init__(self, index: int = 0) -> None:
        gpu = find_gpu(index)
        if gpu is None:
            raise RunnerError(
                "running an engine: there is no GPU here, or no driver. Run the ONNX file it was built of, or move to a"
                " machine with one."
            )
        self.gpu, self.index = gpu, index
        self._driver = _driver()
        self._core = _core()
        with cuda_errors("opening the GPU"):
            before = self._driver.cuCtxGetCurrent()[1]
            self._device = self._core.Device(index)
            self._device.set_current()
            self.context: Any = self._device.context.handle
            self._driver.cuCtxSetCurrent(before)
            with self._entered():
                self._pinned = self._core.LegacyPinnedMemoryResource()
                self._copies = self.stream()

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Makes the context current on this thread; errors of CUDA become RunnerErrors that begin with ``doing``."""
        with cuda_errors(doing), self._entered():
            yield

    @contextmanager
    def _entered(self) -> Iterator[None]:
        _check(self._driver.cuCtxPushCurrent(self.context)[0], "entering the GPU's context")
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def stream(self) -> Stream:
        """Creates a non-blocking stream. TensorRT adds synchronization to the default stream only."""
        return self._device.create_stream()

    def event(self, timed: bool) -> Event:
        """Creates an event. Times are measured between ``timed`` events; waiting for others sleeps, not polls."""
        options = self._core.EventOptions(timing_enabled=timed, blocking_sync=not timed)
        return self._device.create_event(options)

    def memory(self, size: int) -> Buffer:
        """Allocates ``size`` bytes of the GPU, which every stream may use at once; freed with its last holder."""
        buffer = self._device.allocate(max(size, 1), stream=self._copies)  # CUDA rejects zero bytes
        self._copies.sync()
        return buffer

    def pinned(self, size: int) -> Pinned:
        """Allocates page-locked memory of the host."""
        return Pinned(self._pinned.allocate(max(size, 1)))

    def owns(self, address: int) -> bool:
        """Returns whether the memory at ``address`` belongs to this context."""
        kind = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
        result, context = self._driver.cuPointerGetAttribute(kind, address)
        return int(result) == 0 and int(context) == int(self.context)

    def close(self) -> None:
        """Frees the device's own stream. cuda.core keeps the primary context to the end of the process."""
        self._copies.close()

    def borrowed(self, stream: int) -> Stream:
        """Returns another package's stream as a stream of cuda.core, which does not own it."""
        return self._core.Stream.from_handle(stream)


class Pinned:
    """Page-locked host memory, which is copied without staging; ``array`` holds its bytes."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer, self.size = buffer, int(buffer.size)
        self.array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(address_of(buffer)))

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns the first bytes as an array of this shape and type, without a copy."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.array[:count].view(dtype).reshape(shape)

    def close(self) -> None:
        self.array = self.array[:0].copy()  # the memory of the old array is freed next
        self.buffer.close()


def address_of(resource: Any) -> int:
    """Returns the address of a buffer, or the handle of a stream."""
    return int(resource.handle)


def wait(stream: Stream, end: Event, spin: bool) -> None:
    """Waits for all work enqueued on ``stream``.

    Args:
        stream: the stream.
        end: an event that is not timed; it is recorded here.
        spin: poll for the end, which saves the wake-up time but keeps a CPU core busy.
    """
    stream.record(end)
    if not spin:
        end.sync()
        return
    while not end.is_done:
        pass


def copy(source: Buffer, target: Buffer, size: int, stream: Stream) -> None:
    """Enqueues a copy of the first ``size`` bytes of one buffer to another, of the host or the GPU."""
    if size:
        part(source, size).copy_to(part(target, size), stream=stream)


def part(buffer: Buffer, size: int) -> Buffer:
    """Returns the first ``size`` bytes of a buffer, which stays alive as long as they do."""
    return buffer if buffer.size == size else _core().Buffer.from_handle(address_of(buffer), size, owner=buffer)


class Graph:
    """A CUDA graph of work captured from a stream; freed with its last holder.

    These calls go to cuda.bindings. cuda.core 1.2 reads the handle of the graph when a capture begins, and destroys it
    once more when the driver has ended an invalidated capture and its graph (tests/cuda).
    """

    def __init__(self, executable: Any) -> None:
        self._driver, self._executable = _driver(), executable
        self._end = weakref.finalize(self, self._driver.cuGraphExecDestroy, executable)
        self._end.atexit = False

    @classmethod
    def capture(cls, stream: Stream, work: Callable[[], bool]) -> Graph | None:
        """Captures what ``work`` enqueues on ``stream``.

        Returns None if ``work`` returns False, or CUDA does not capture it. The stream stays usable.
        """
        driver = _driver()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # as trtexec
        _check(driver.cuStreamBeginCapture(stream.handle, mode)[0], "beginning a capture")
        try:
            complete = work()
        finally:
            ended, graph = driver.cuStreamEndCapture(stream.handle)
        if int(ended) != 0 or graph is None:
            return None
        try:
            made, executable = driver.cuGraphInstantiate(graph, 0) if complete else (1, None)
        finally:
            driver.cuGraphDestroy(graph)
        return cls(executable) if int(made) == 0 else None

    def launch(self, stream: Stream) -> None:
        _check(self._driver.cuGraphLaunch(self._executable, stream.handle)[0], "launching the CUDA graph")


def find_gpu(index: int = 0) -> dict[str, str] | None:
    """Returns ``name`` and ``compute_capability`` (such as ``9.0``) of a GPU; None without a GPU or driver.

    Raises:
        MissingDependencyError: cuda-core is not installed.
    """
    driver, core = _driver(), _core()
    try:
        if int(driver.cuInit(0)[0]) != 0 or index >= driver.cuDeviceGetCount()[1]:
            return None
    except RuntimeError:  # there is no driver library
        return None
    device = core.Device(index)
    major, minor = device.compute_capability
    return {"name": device.name, "compute_capability": f"{major}.{minor}"}


def driver_version() -> tuple[int, int] | None:
    """Returns the newest CUDA that the driver supports, such as (12, 4); None without a driver."""
    try:
        result, version = _driver().cuDriverGetVersion()
    except RuntimeError:  # no driver library
        return None
    return (version // 1000, version % 1000 // 10) if int(result) == 0 else None


@contextmanager
def cuda_errors(
    doing: str, error_type: type[PoseError] = RunnerError, more: str = " Check the driver and the GPU."
) -> Iterator[None]:
    """Turns exceptions of cuda.core into ``error_type``; the message begins with ``doing`` and ends with ``more``."""
    try:
        yield
    except Exception as error:
        if not _is_cudas(error):
            raise
        text = " ".join(str(error).split())
        reason = text.partition(": ")[0] if text.startswith("CUDA_") else text[:400].rstrip(".")
        raise error_type(f"{doing}: CUDA answered {reason}.{more}") from error


def _is_cudas(error: BaseException) -> bool:
    return type(error).__module__.startswith("cuda.core")  # its exceptions have no public name


def _check(result: Any, action: str) -> None:
    """Raises EngineError unless ``result`` is CUDA's success code."""
    if int(result) != 0:
        raise EngineError(f"{action}: CUDA answered {getattr(result, 'name', result)}. Check the driver and the GPU.")


def _core() -> Any:
    return require("cuda.core", "using CUDA")


def _driver() -> Any:
    return require("cuda.bindings.driver", "using CUDA")
