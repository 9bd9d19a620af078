"""Reading, describing and writing ONNX files."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import onnx

from ..documents import to_json
from ..errors import CalibrationError, ExportError, RunnerError, UsageError, first_line
from ..files import check_readable, write_atomically
from ..spec import ACCURACY_KEY, DIGEST_KEY, METADATA_KEY, ModelSpec

_QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
}  # fmt: skip


def check_suffix(output: str | Path) -> None:
    """Raises UsageError unless the suffix of ``output`` is ``.onnx``; folders are not checked."""
    if Path(output).suffix.lower() != ".onnx" and not Path(output).is_dir():
        raise UsageError(f"exporting to {output}: got the suffix {Path(output).suffix or 'none'!r}, expected .onnx.")


def load(path: str | Path) -> onnx.ModelProto:
    """Reads and checks an ONNX file. Raises ExportError when it is missing, damaged or not valid."""
    check_readable(path, "reading", ExportError)
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
    """Writes an ONNX file, atomically, with the digest of its graph. Raises ExportError when it cannot be written."""
    if any(item.key == METADATA_KEY for item in proto.metadata_props):
        set_metadata(proto, DIGEST_KEY, _digest(proto))
    write_atomically(path, lambda target: onnx.save(proto, target, format="protobuf"), ExportError)


def _digest(proto: onnx.ModelProto) -> str:
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()


def is_changed(proto: onnx.ModelProto) -> bool | None:
    """Returns whether the graph or a weight differs from what :func:`save` wrote; None for files without a digest."""
    said = next((item.value for item in proto.metadata_props if item.key == DIGEST_KEY), None)
    return None if said is None else said != _digest(proto)


def record_accuracy(path: str | Path, accuracy: dict[str, Any]) -> None:
    """Writes the measured accuracy of a file into its metadata; replaces an earlier entry."""
    proto = load(path)
    set_metadata(proto, ACCURACY_KEY, to_json(accuracy))
    save(proto, path)


def set_metadata(proto: onnx.ModelProto, key: str, value: str, drop: tuple[str, ...] = ()) -> None:
    """Sets an entry of a model's metadata, and removes the entries ``drop``."""
    kept = [(item.key, item.value) for item in proto.metadata_props if item.key not in (key, *drop)]
    del proto.metadata_props[:]
    for name, text in (*kept, (key, value)):
        proto.metadata_props.add(key=name, value=text)


def check_graph(proto: onnx.ModelProto, what: str) -> None:
    """Raises ExportError, which names ``what``, when ONNX's checker rejects a model or its types."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"checking {what}: {first_line(error)}. Please report this.") from error


def read_spec(proto: onnx.ModelProto) -> ModelSpec:
    """Reads the description inside a model.

    Raises:
        CalibrationError: it is missing or damaged, or the model has other inputs than it says.
    """
    try:
        spec = ModelSpec.from_metadata({item.key: item.value for item in proto.metadata_props}, "the model")
    except RunnerError as error:
        raise CalibrationError(str(error)) from error
    weights = {item.name for item in proto.graph.initializer}
    inputs = [item.name for item in proto.graph.input if item.name not in weights]
    if inputs != [spec.input.name]:
        raise CalibrationError(
            f"reading the model: it has the inputs {', '.join(inputs)[:200] or 'none'}, its description says"
            f" {spec.input.name}. Export it again."
        )
    return spec


def element_name(kind: int) -> str:
    """Returns NumPy's name of an ONNX element type; ``unknown`` for one that onnx does not know."""
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind).name)
    except KeyError:
        return "unknown"


def precision_of(model: onnx.ModelProto) -> str:
    """Returns the precision of a graph, from its quantizers and from the type of most of its floating-point weights."""
    quantized = any(node.op_type in _QUANTIZED for node in model.graph.node)
    constants = [
        entry.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for entry in node.attribute
        if entry.name == "value"
    ]
    sizes: Counter[int] = Counter()
    for tensor in (*model.graph.initializer, *constants):
        sizes[tensor.data_type] += prod(tensor.dims)
    half = sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT]
    found = [*(["int8"] if quantized else []), *(["fp16"] if half else [])]
    return "+".join(found) or "fp32"


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
    set_metadata(made, METADATA_KEY, described.to_json(), drop=(ACCURACY_KEY,))
    check_graph(made, f"the quantized graph of {spec.model}")
