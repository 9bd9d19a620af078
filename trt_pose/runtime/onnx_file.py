"""What a runner has to know of an ONNX file, without the onnx package: its metadata and its plugin nodes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from ..operators import contract

_METADATA_PROPS = 14  # field of ModelProto: entries of a key and a value, fields 1 and 2
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_OP_TYPE = 0x22  # tag of NodeProto.op_type: field 4, length-delimited


def read_metadata(model: str | Path | bytes) -> dict[str, str]:
    """Returns the metadata of an ONNX file; empty for a file that is missing, or is none.

    The graph is passed over: only the fields of the outermost message are read, see onnx.proto and
    https://protobuf.dev/programming-guides/encoding.
    """
    try:
        if isinstance(model, bytes):
            return _metadata(model)
        with Path(model).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _metadata(data)
    except (OSError, ValueError, IndexError):  # missing or empty; no text, or cut
        return {}


def _metadata(data: bytes | mmap.mmap) -> dict[str, str]:
    found = {}
    for number, start, end in _fields(data, 0, len(data)):
        if number == _METADATA_PROPS:
            entry = {key: data[first:last].decode() for key, first, last in _fields(data, start, end)}
            found[entry.get(1, "")] = entry.get(2, "")
    return found


def _fields(data: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of each length-delimited field of a protobuf message."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _DELIMITED:
            size, start = _varint(data, start)
            yield tag >> 3, start, start + size
            start += size
        elif kind == _VARINT:
            _, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a protobuf message")


def _varint(data: bytes | mmap.mmap, start: int) -> tuple[int, int]:
    """Returns a number of seven bits per byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if not byte & 0x80:
            return value, start


def has_plugin_node(model: str | Path | bytes) -> bool:
    """True if the name of a plugin operator is in the file: the string, with its length, as protobuf stores it."""
    return _holds(model, [bytes([_OP_TYPE, len(name)]) + name.encode() for name in contract.OPERATORS])


def has_external_weights(model: str | Path | bytes) -> bool:
    """True if the name under which ONNX says where a tensor's values lie is in the file."""
    return _holds(model, [b"\x0a\x08location\x12"])  # a key of TensorProto.external_data


def _holds(model: str | Path | bytes, texts: list[bytes]) -> bool:
    if isinstance(model, bytes):
        return any(text in model for text in texts)
    with Path(model).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(text) >= 0 for text in texts)


def with_functions(model: str | Path | bytes) -> bytes:
    """Returns the bytes of a file followed by plugin operators as ONNX functions: protobuf merges the two messages.

    A file that this function has returned before is left as it is.
    """
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    functions = resources.files("trt_pose").joinpath(contract.FUNCTIONS).read_bytes()
    return data if data.endswith(functions) else data + functions
