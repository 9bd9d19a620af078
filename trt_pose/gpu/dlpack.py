"""DLPack capsules around GPU memory (https://dmlc.github.io/dlpack/latest/python_spec.html), by ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

CUDA = 2  # kDLCUDA
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor: address, device type and number, dimensions, element type, shape, strides, offset."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLPack's DLManagedTensor."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_alive: dict[int, Any] = {}  # by address: tensors that a consumer may still read


def _give_up(managed: int) -> None:
    _alive.pop(managed, None)


def _give_up_unused(capsule: int) -> None:
    """Frees the tensor of a capsule that was not consumed, which is known by its unchanged name."""
    api = ctypes.pythonapi
    if api.PyCapsule_IsValid(ctypes.c_void_p(capsule), _NAME):
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        _alive.pop(api.PyCapsule_GetPointer(ctypes.c_void_p(capsule), _NAME), None)


# ctypes keeps no reference to callbacks; these live as long as the module.
_delete, _destroy = _Deleter(_give_up), _Destructor(_give_up_unused)


def make_capsule(
    address: int, shape: tuple[int, ...], dtype: npt.DTypeLike, device: tuple[int, int], owner: object
) -> Any:
    """Returns a ``dltensor`` capsule; ``owner`` is kept alive until the consumer deletes the tensor."""
    kind = np.dtype(dtype)
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(
        address, *device, len(shape), _CODES[kind.kind], kind.itemsize * 8, 1,
        ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)), None, 0,
    )  # fmt: skip
    managed = _Managed(tensor, None, _delete)
    _alive[ctypes.addressof(managed)] = (managed, sizes, owner)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.addressof(managed), _NAME, ctypes.cast(_destroy, ctypes.c_void_p))
