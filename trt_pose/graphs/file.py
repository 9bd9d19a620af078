"""Reading, describing and writing ONNX files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from ..documents import to_json
from ..errors import CalibrationError, ExportError, RunnerError, first_line
from ..files import write_atomically
from ..spec import ACCURACY_KEY, METADATA_KEY, ModelSpec


def load(path: str | Path) -> onnx.ModelProto:
    """Reads and checks an ONNX file. Raises ExportError when it is missing, damaged or not valid."""
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise ExportError(f"reading {path}: {error.strerror or error}. Check the path.") from error
    except Exception as error:  # exceptions of protobuf and onnx have no common base class
        raise ExportError(
            f"reading {path}: not a valid ONNX file ({first_line(error)[:200]}). Export it again."
        ) from error
    return proto


def save(proto: onnx.ModelProto, path: str | Path) -> None:
    """Writes an ONNX file, atomically. Raises ExportError when it cannot be written."""
    write_atomically(path, lambda target: onnx.save(proto, target, format="protobuf"), ExportError)


def record_accuracy(path: str | Path, accuracy: dict[str, Any]) -> None:
    """Writes the measured accuracy of a file into its metadata; replaces an earlier entry."""
    proto = load(path)
    kept = [(item.key, item.value) for item in proto.metadata_props if item.key != ACCURACY_KEY]
    del proto.metadata_props[:]
    for key, value in (*kept, (ACCURACY_KEY, to_json(accuracy))):
        proto.metadata_props.add(key=key, value=value)
    save(proto, path)


def read_spec(proto: onnx.ModelProto) -> ModelSpec:
    """Reads the description inside a model. Raises CalibrationError when it is missing or damaged."""
    try:
        return ModelSpec.from_metadata({item.key: item.value for item in proto.metadata_props}, "the model")
    except RunnerError as error:
        raise CalibrationError(str(error)) from error


def describe(made: onnx.ModelProto, spec: ModelSpec, precision: str, done: str) -> None:
    """Updates the description in a quantized graph. Raises ExportError when ONNX's checker rejects the graph.

    Args:
        made: the quantized graph; its metadata is changed in place.
        spec: the description of the source.
        precision: precision of the quantized graph.
        done: the quantization step, added to the history in the description.
    """
    history = f"{spec.quantization}; {done}" if spec.quantization else done
    described = replace(spec, precision=precision, quantization=history)
    others = [(item.key, item.value) for item in made.metadata_props if item.key not in (METADATA_KEY, ACCURACY_KEY)]
    del made.metadata_props[:]
    for key, value in (*others, (METADATA_KEY, described.to_json())):
        made.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"checking the quantized graph of {spec.model}: {first_line(error)}. Please report this."
        ) from error
