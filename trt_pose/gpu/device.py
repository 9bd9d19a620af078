"""CUDA resources of a runner: primary context, streams, events, memory and graphs, each freed when closed.

The calls go through cuda-bindings and use the primary context, which torch, cupy and TensorRT share; no other context
is created. Any thread may call, because each call makes the context current for its duration.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, RunnerError
from ..optional import require
from . import dlpack

Bytes = npt.NDArray[np.uint8]


class Device:
    """The primary context of one GPU.

    Raises:
        RunnerError: no GPU or no driver.
        MissingDependencyError: cuda-bindings is not installed.
    """

    def __init__(self, index: int = 0) -> None:
        gpu = find_gpu(index)
        if gpu is None:
            raise RunnerError(
                "running an engine: there is no GPU here, or no driver. Run the ONNX file it was built of, or move to a"
                " machine with one."
            )
        self.gpu, self.index = gpu, index
        self._driver = bindings("driver")
        result, self._device = self._driver.cuDeviceGet(index)
        check(result, "asking for the GPU")
        result, self._context = self._driver.cuDevicePrimaryCtxRetain(self._device)
        check(result, "retaining the GPU's primary context")

    @contextmanager
    def current(self) -> Iterator[Any]:
        """Makes the context current on this thread; yields the module of driver functions."""
        (result,) = self._driver.cuCtxPushCurrent(self._context)
        check(result, "entering the GPU's context")
        try:
            yield self._driver
        finally:
            self._driver.cuCtxPopCurrent()

    def close(self) -> None:
        self._driver.cuDevicePrimaryCtxRelease(self._device)


class DriverHandle:
    """A resource of the driver; :meth:`close` frees it once, in the context of its device."""

    def __init__(self, device: Device, make: str, free: str, *arguments: Any) -> None:
        self._device, self._free = device, free
        with device.current() as driver:
            result, self.handle = getattr(driver, make)(*arguments)
            check(result, f"{make} of {', '.join(map(str, arguments)) or 'the GPU'}")

    @property
    def address(self) -> int:
        return int(self.handle)

    def close(self) -> None:
        if self.handle is not None:
            with self._device.current() as driver:
                getattr(driver, self._free)(self.handle)
            self.handle = None


class Stream(DriverHandle):
    """A non-blocking stream. TensorRT adds synchronization to the default stream only."""

    def __init__(self, device: Device) -> None:
        non_blocking = 1
        super().__init__(device, "cuStreamCreate", "cuStreamDestroy", non_blocking)
        self._end = Event(device, timed=False)

    def wait(self, driver: Any, spin: bool) -> None:
        """Waits for all enqueued work; ``spin`` polls, which saves the wake-up time but keeps a CPU core busy."""
        if not spin:
            self._end.record(driver, self)
            self._end.wait(driver)
            return
        while int(result := driver.cuStreamQuery(self.handle)[0]) == int(driver.CUresult.CUDA_ERROR_NOT_READY):
            pass
        check(result, "running the engine")

    def close(self) -> None:
        self._end.close()
        super().close()

    def wait_for(self, driver: Any, event: Event) -> None:
        check(driver.cuStreamWaitEvent(self.handle, event.handle, 0)[0], "ordering two streams")


class Event(DriverHandle):
    """An event on a stream. Times are measured between ``timed`` events; waiting for others sleeps, not polls."""

    def __init__(self, device: Device, timed: bool) -> None:
        blocking_untimed = 1 | 2
        super().__init__(device, "cuEventCreate", "cuEventDestroy", 0 if timed else blocking_untimed)

    def record(self, driver: Any, stream: Stream) -> None:
        check(driver.cuEventRecord(self.handle, stream.handle)[0], "recording an event")

    def wait(self, driver: Any) -> None:
        check(driver.cuEventSynchronize(self.handle)[0], "running the engine")

    def ms_since(self, driver: Any, first: Event) -> float:
        result, ms = driver.cuEventElapsedTime(first.handle, self.handle)
        check(result, "reading two events")
        return float(ms)


class Memory(DriverHandle):
    """Memory on the GPU."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = max(size, 1)  # CUDA rejects zero-byte allocations
        super().__init__(device, "cuMemAlloc", "cuMemFree", self.size)


class Pinned(DriverHandle):
    """Page-locked host memory, which is copied without staging; ``array`` holds its bytes."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = max(size, 1)
        super().__init__(device, "cuMemHostAlloc", "cuMemFreeHost", self.size, 0)
        self.array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns the first bytes as an array of this shape and type, without a copy."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.array[:count].view(dtype).reshape(shape)

    def close(self) -> None:
        self.array = self.array[:0].copy()  # the memory of the old array is freed next
        super().close()


class Graph:
    """A CUDA graph of work captured from a stream."""

    def __init__(self, device: Device, executable: Any) -> None:
        self._device, self._executable = device, executable

    @classmethod
    def capture(cls, device: Device, stream: Stream, work: Callable[[], bool]) -> Graph | None:
        """Captures the calls of ``work``; returns None if ``work`` or the driver fails. The stream stays usable."""
        with device.current() as driver:
            mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            check(driver.cuStreamBeginCapture(stream.handle, mode)[0], "beginning a capture")
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
            return cls(device, executable) if int(made) == 0 else None

    def launch(self, driver: Any, stream: Stream) -> None:
        check(driver.cuGraphLaunch(self._executable, stream.handle)[0], "launching the CUDA graph")

    def close(self) -> None:
        if self._executable is not None:
            with self._device.current() as driver:
                driver.cuGraphExecDestroy(self._executable)
            self._executable = None


def upload(driver: Any, memory: Memory, pinned: Pinned, size: int, stream: Stream) -> None:
    check(driver.cuMemcpyHtoDAsync(memory.handle, pinned.address, size, stream.handle)[0], "copying to the GPU")


def download(driver: Any, pinned: Pinned, memory: Memory, size: int, stream: Stream) -> None:
    if size:
        check(driver.cuMemcpyDtoHAsync(pinned.address, memory.handle, size, stream.handle)[0], "copying from the GPU")


class DeviceArray:
    """A tensor on the GPU, which torch, cupy and numba read through ``__cuda_array_interface__`` or DLPack.

    It shares the memory of the runner's buffer, which the next run overwrites. The work that fills the buffer is
    complete when the array is created.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike, stream: Stream, device: int) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._address, self._stream, self._device = address, stream, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._device

    def __dlpack__(self, **_: Any) -> Any:
        return dlpack.make_capsule(self._address, self.shape, self.dtype, self.__dlpack_device__(), self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "version": 3,
            "stream": self._stream.address,
        }


def current_architecture() -> str:
    """Returns the architecture of the current context's device, such as ``sm_90``. Raises EngineError without one."""
    driver = bindings("driver")
    result, device = driver.cuCtxGetDevice()
    check(result, "asking for the current GPU")
    major, minor = _capability(driver, device)
    return f"sm_{major}{minor}"


def find_gpu(index: int = 0) -> dict[str, str] | None:
    """Returns ``name`` and ``compute_capability`` (such as ``9.0``) of a GPU; None without a GPU or driver.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    driver = bindings("driver")
    try:
        if int(driver.cuInit(0)[0]) != 0 or index >= driver.cuDeviceGetCount()[1]:
            return None
    except RuntimeError:  # cuda-bindings finds no driver library
        return None
    result, device = driver.cuDeviceGet(index)
    check(result, "asking for the GPU")
    result, name = driver.cuDeviceGetName(128, device)
    check(result, "asking for the GPU's name")
    major, minor = _capability(driver, device)
    return {"name": name.decode().rstrip("\0"), "compute_capability": f"{major}.{minor}"}


def _capability(driver: Any, device: Any) -> tuple[int, int]:
    kinds = driver.CUdevice_attribute
    numbers = []
    for kind in (
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    ):
        result, number = driver.cuDeviceGetAttribute(kind, device)
        check(result, "asking for the compute capability")
        numbers.append(int(number))
    return numbers[0], numbers[1]


def bindings(part: str) -> Any:
    """Imports ``cuda.bindings.PART``. Raises MissingDependencyError when it is not installed."""
    return require(f"cuda.bindings.{part}", "using CUDA")


def check(result: Any, action: str) -> None:
    """Raises EngineError unless ``result`` is CUDA's success code."""
    if int(result) != 0:
        raise EngineError(f"{action}: CUDA answered {getattr(result, 'name', result)}. Check the driver and the GPU.")
