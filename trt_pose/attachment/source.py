"""The file that ``attach`` is given: its graph with names of its own, its input, and the tensors that are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime

from ..choices import ExportTargetBackend, HeadName
from ..errors import ExportError, first_line
from ..files import check_readable
from ..graphs.surgery import rename, to_graph, to_model
from ..operators.contract import DOMAIN
from ..runtime.ort import silent_options
from .heads import HEADS, OPEN_ROWS, Head
from .ultralytics import exported_size

THEIRS = "model/"  # prefix of the names in the file
_ELEMENTS = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32", onnx.TensorProto.INT64: "int64",
}  # fmt: skip


# Operator sets that are converted first, and to which: MMDeploy writes 11, LibreYOLO 13. In older ones some operators
# mean something else.
_CONVERTED, _CONVERTED_TO = range(11, 16), 17
# The newest that ONNX Runtime 1.31 opens. The operators of the parts put around a file mean the same in all from 16 on.
_OPENED = 26
# Operators whose outputs have as many elements as the data says.
_DATA_DEPENDENT = ("NonMaxSuppression", "NonZero", "Unique", "Compress")


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the file that the selection reads.

    Attributes:
        name: its name.
        shape: its shape, with 2 for an open batch size, and OPEN_ROWS for an open number of rows.
        element: its element type.
        open_rows: whether the number of rows is open.
    """

    name: str
    shape: list[int]
    element: str
    open_rows: bool


def load(source: str | Path) -> onnx.ModelProto:
    """Loads the file with inferred shapes and prefixed names, and removes weights from the list of inputs."""
    path = check_readable(source, "attaching to", ExportError)
    try:
        proto = onnx.load(path)
        weights = {item.name for item in proto.graph.initializer}
        images = [item for item in proto.graph.input if item.name not in weights]
        del proto.graph.input[:]
        proto.graph.input.extend(images)
        # Some toolkits write nodes in an order that ONNX Runtime accepts and the ONNX checker does not.
        proto = to_model(to_graph(proto).toposort(), proto)
        if opset_of(proto) in _CONVERTED:
            proto = onnx.version_converter.convert_version(proto, _CONVERTED_TO)
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        for entry in proto.opset_import:
            if entry.domain == DOMAIN:  # set by a plugin node in the file; TensorRT ignores the version
                entry.version = 1
        proto = to_model(rename(to_graph(proto), THEIRS), proto)
    except Exception as error:  # protobuf, onnx and file errors have no common base
        raise ExportError(f"attaching to {path}: not a readable ONNX file ({type(error).__name__}).") from error
    if not 16 <= opset_of(proto) <= _OPENED:
        raise ExportError(
            f"attaching to {path}: the file has opset {opset_of(proto)}, expected 11 to {_OPENED}."
            " Export it with opset 17."
        )
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operators that the file uses."""
    return max((int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def fixed(proto: onnx.ModelProto, source: str | Path) -> onnx.ModelProto:
    """Returns the file with the sizes of its input and outputs, as far as they are known.

    A file that takes images of any size is fixed at the size that its metadata says it was exported for. Sizes of
    outputs that follow from arithmetic on shapes, which inference of shapes does not do, are what a run gives. Where a
    suppression is in the file, the number of rows, axis 1, stays open.
    """
    shape = _shape_of(proto.graph.input[0]) if len(proto.graph.input) == 1 else []
    said = exported_size({item.key: item.value for item in proto.metadata_props})
    if len(shape) != 4:
        return proto
    sizes = [known or side for known, side in zip(shape[2:], said or (None, None), strict=True)]
    is_open = any(size is None for item in proto.graph.output for size in _shape_of(item)[1:])
    follows = not any(node.op_type in _DATA_DEPENDENT for node in proto.graph.node)
    if None in sizes or not (None in shape[2:] or is_open):
        return proto
    element = _ELEMENTS.get(proto.graph.input[0].type.tensor_type.elem_type, "float32")
    image = np.zeros((shape[0] or 2, 3, *(size or 0 for size in sizes)), element)
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"]
        )
        found = session.run(None, {proto.graph.input[0].name: image})
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ExportError(
            f"attaching to {source}: it does not run with images of {sizes[0]} x {sizes[1]}, which it says it takes:"
            f" {first_line(error)[:200]}. Export it with a fixed image size."
        ) from error
    for side, size in zip(proto.graph.input[0].type.tensor_type.shape.dim[2:], sizes, strict=True):
        side.dim_value = size or 0
    for item, array in zip(proto.graph.output, found, strict=True):
        dims = list(zip(item.type.tensor_type.shape.dim, array.shape, strict=True))
        for dim, size in dims[1:] if follows else dims[2:]:
            dim.dim_value = size
    return proto


def input_of(proto: onnx.ModelProto, source: str | Path) -> tuple[int | None, int, int, str]:
    inputs = list(proto.graph.input)
    shape = _shape_of(inputs[0]) if len(inputs) == 1 else []
    element = _ELEMENTS.get(inputs[0].type.tensor_type.elem_type) if inputs else None
    if len(shape) != 4 or shape[1] != 3 or shape[2] is None or shape[3] is None or element is None:
        raise ExportError(
            f"attaching to {source}: got {len(inputs)} inputs, the first of shape {shape}, expected one image"
            " (B, 3, H, W) of fixed size, float32, float16 or uint8. Export it with a fixed image size."
        )
    return shape[0], shape[2], shape[3], element


def own_name(name: str) -> str:
    """Returns the name as it is in the original file, without the prefix."""
    return name.removeprefix(THEIRS)


def _shape_of(item: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.dim_value > 0 else None for dim in item.type.tensor_type.shape.dim]


def outputs_of(
    proto: onnx.ModelProto, names: list[str], source: str | Path, head: HeadName | None, batch: int | None
) -> list[SourceTensor]:
    known = {item.name: item for item in (*proto.graph.output, *proto.graph.value_info)}
    missing = [name for name in names if name not in known]
    wanted = len(HEADS[head].tensors) if head else len(names)
    if missing or len(names) != wanted:
        have = ", ".join(own_name(item.name) for item in proto.graph.output)
        takes = f"head {head} takes {wanted} tensors, got" if head else "there are no tensors"
        raise ExportError(
            f"attaching to {source}: {takes} {', '.join(map(own_name, names))}; the file's outputs are {have}."
            " Name the tensors."
        )
    outputs = []
    for name in names:
        sizes = _shape_of(known[name])
        if sizes[:1] != [batch]:
            raise ExportError(
                f"attaching to {source}: {own_name(name)} has batch {sizes[:1]}, the image input {batch}. Export"
                " the file with one batch size throughout."
            )
        open_rows = len(sizes) > 1 and sizes[1] is None
        shape = [batch or 2, *([OPEN_ROWS] if open_rows else sizes[1:2]), *sizes[2:]]
        if any(size is None for size in shape):
            raise _not_fixed(name, source)
        element = _ELEMENTS.get(known[name].type.tensor_type.elem_type, "another type")
        outputs.append(SourceTensor(name, [int(size) for size in shape if size is not None], element, open_rows))
    return outputs


def _not_fixed(name: str, source: str | Path) -> ExportError:
    return ExportError(
        f"attaching to {source}: the shape of {own_name(name)} is not fixed. Export it with a fixed size."
    )


def check_tensors(head: Head, outputs: list[SourceTensor], target: ExportTargetBackend, source: str | Path) -> None:
    """Raises ExportError for an element type or an open number of rows that the head, or TensorRT, does not take."""
    for name, item in zip(head.tensors, outputs, strict=True):
        expected = ("int32", "int64") if name in head.whole else ("float32", "float16")
        if item.element not in expected:
            raise ExportError(
                f"attaching to {source}: {own_name(item.name)} is of {item.element}, expected {' or '.join(expected)}."
            )
        if item.open_rows and not head.open_rows:
            raise _not_fixed(item.name, source)
        if item.open_rows and target is ExportTargetBackend.TENSORRT:
            raise ExportError(
                f"attaching to {source}: {own_name(item.name)} has as many rows as the file finds, which TensorRT"
                " cannot express. Export it with a fixed number, or attach for ONNX Runtime."
            )
