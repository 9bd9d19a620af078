"""ONNX files: read and checked, described, written whole."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..errors import CalibrationError, ExportError, RunnerError
from ..files import write_atomically
from ..types import ModelSpec


def load(path: str | Path) -> onnx.ModelProto:
    """Reads and checks an ONNX file. Raises ExportError when it is missing, damaged or not valid."""
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise ExportError(f"reading {path}: {error.strerror or error}. Check the path.") from error
    except Exception as error:  # protobuf's and onnx's have no common base
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"reading {path}: not a valid ONNX file ({first[:200]}). Export it again.") from error
    return proto


def save(proto: onnx.ModelProto, path: str | Path) -> None:
    """Writes an ONNX file, whole or not at all."""
    write_atomically(path, lambda target: onnx.save(proto, target, format="protobuf"), ExportError)


def read_spec(proto: onnx.ModelProto) -> ModelSpec:
    """The description inside a model. Raises CalibrationError when it has none."""
    try:
        return ModelSpec.from_metadata({item.key: item.value for item in proto.metadata_props}, "the model")
    except RunnerError as error:
        raise CalibrationError(str(error)) from error
