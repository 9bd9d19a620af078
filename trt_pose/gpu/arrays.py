"""Tensors that stay on the GPU, and tensors of other packages that are there already.

torch, cupy, numba and pycuda meet them through ``__cuda_array_interface__`` (version 3,
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) or DLPack
(https://dmlc.github.io/dlpack/latest/python_spec.html); cuda.core reads and writes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import RunnerError
from ..optional import require
from .device import Device, address_of, cuda_errors, part

if TYPE_CHECKING:
    from cuda.core import Buffer, Stream

_CUDA = 2  # DLPack's kDLCUDA
_PRIMARY = "Use the GPU's primary context: import pycuda.autoprimaryctx instead of pycuda.autoinit."


class DeviceArray:
    """A tensor on the GPU.

    It shares the memory of the runner's buffer, which the next run overwrites; the memory itself lives as long as the
    array or anything made of it, also after the runner is closed.

    Attributes:
        shape: the shape.
        dtype: the element type, as in NumPy.
        ptr: address on the GPU; 0 when the array is empty.
    """

    def __init__(self, buffer: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike, stream: Stream, gpu: int) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._buffer, self._stream, self._gpu = buffer, stream, gpu

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def ptr(self) -> int:
        return address_of(self._buffer) if self.nbytes else 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._gpu

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("exporting a tensor: got another device or a copy, expected neither. Copy it afterwards.")
        view = require("cuda.core.utils", "exporting a tensor").StridedMemoryView
        made = view.from_buffer(part(self._buffer, max(self.nbytes, 1)), self.shape, dtype=self.dtype)
        return made.__dlpack__(stream=-1, max_version=max_version)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.ptr, False),
            "version": 3,
            "stream": address_of(self._stream),
        }

    def to_torch(self) -> Any:
        """Returns a ``torch.Tensor`` over the same memory."""
        return require("torch", "reading a tensor with torch").from_dlpack(self)

    def to_cupy(self) -> Any:
        """Returns a ``cupy.ndarray`` over the same memory."""
        return require("cupy", "reading a tensor with cupy").from_dlpack(self)

    def to_pycuda(self) -> Any:
        """Returns a ``pycuda.gpuarray.GPUArray`` over the same memory; import ``pycuda.autoprimaryctx`` first."""
        arrays = require("pycuda.gpuarray", "reading a tensor with pycuda")
        return arrays.GPUArray(self.shape, self.dtype, base=self, gpudata=self.ptr)


@dataclass(frozen=True)
class GuestArray:
    """A contiguous tensor of another package on the GPU.

    Attributes:
        shape: the shape.
        dtype: the element type, as in NumPy.
        buffer: its memory; keeps the tensor alive.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: Buffer

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def is_on_gpu(value: object) -> bool:
    """Returns whether ``value`` is a tensor on a GPU, by either protocol."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    where = getattr(value, "__dlpack_device__", None)
    return where is not None and where()[0] == _CUDA


def borrow(value: Any, name: str, device: Device, stream: Stream) -> GuestArray:
    """Returns a tensor of another package, ordered so that ``stream`` may read it.

    Args:
        value: a tensor on the GPU: ``torch.Tensor``, ``cupy.ndarray``, ``pycuda.gpuarray.GPUArray``, a DeviceArray.
        name: name of the input, for messages.
        device: the GPU; its context is current.
        stream: what reads the tensor. It waits for the stream that the tensor names, if it names one.

    Raises:
        RunnerError: the tensor is not contiguous, or belongs to another context or GPU.
    """
    views = require("cuda.core.utils", "reading a tensor on the GPU").StridedMemoryView
    core = require("cuda.core", "reading a tensor on the GPU")
    with cuda_errors(f"running the model: reading {name}", more=f" {_PRIMARY}"):
        view = views.from_any_interface(value, stream_ptr=address_of(stream))
    shape, dtype = tuple(view.shape), np.dtype(view.dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if view.strides is not None and tuple(view.strides) != _contiguous(shape):
        raise RunnerError(f"running the model: {name} is not contiguous on the GPU. Copy it first.")
    if size and not device.owns(view.ptr):
        raise RunnerError(
            f"running the model: {name} is memory of another CUDA context or GPU than {device.index}, or not of a GPU."
            f" {_PRIMARY}"
        )
    return GuestArray(shape, dtype, core.Buffer.from_handle(view.ptr, max(size, 1), owner=(view, value)))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides of a contiguous tensor, in elements."""
    return tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))


def stream_handle(stream: Any) -> int:
    """Returns the address of a stream: an integer, or a stream of cuda.core, pycuda, cupy or torch.

    Raises:
        RunnerError: it is none of these.
    """
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "handle", "ptr"):  # torch, pycuda, cupy
        stream = getattr(stream, attribute, stream)
    try:
        return int(stream)
    except (TypeError, ValueError):
        raise RunnerError(
            f"running the model: got the stream {stream!r}, expected an integer or a stream of torch, cupy, pycuda or"
            " cuda.core."
        ) from None
