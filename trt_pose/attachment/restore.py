"""The description given back to a file from which another tool has removed it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from ..errors import ExportError
from ..files import check_writable
from ..graphs.file import check_graph, check_suffix, element_name, load, precision_of, save, set_metadata
from ..spec import METADATA_KEY, ModelSpec


def restore(source: str | Path, output: str | Path, original: str | Path) -> ModelSpec:
    """Writes ``source`` with the description of ``original``, the file that it was made from.

    The precision in the description becomes that of the graph, for tools that change it.

    Args:
        source: an ONNX file made from ``original`` by a tool that drops metadata.
        output: path of the new ``.onnx`` file, written atomically.
        original: an ONNX file exported by trt_pose.

    Returns:
        The description stored in the new file.

    Raises:
        ExportError: a file cannot be read, or ``source`` has other inputs, outputs or plugin nodes than described.
        RunnerError: ``original`` has no description.
    """
    check_suffix(output)
    check_writable(output, ExportError)
    proto, first = load(source), load(original)
    spec = ModelSpec.from_metadata({item.key: item.value for item in first.metadata_props}, original)
    for what, found, expected in (
        ("inputs", _signature(proto, inputs=True), _signature(first, inputs=True)),
        ("outputs", _signature(proto, inputs=False), _signature(first, inputs=False)),
    ):
        if found != expected:
            raise ExportError(
                f"describing {source} as {original}: the {what} are {', '.join(found)}, expected {', '.join(expected)}."
                " Give the file that it was made from."
            )
    missing = set(spec.plugins_required) - {node.op_type for node in proto.graph.node}
    if missing:
        raise ExportError(
            f"describing {source} as {original}: there is no node {', '.join(sorted(missing))}. Give the file that it"
            " was made from."
        )
    precision = precision_of(proto)
    if precision != spec.precision:
        changed = f"to {precision} by another tool"
        history = f"{spec.quantization}; {changed}" if spec.quantization else changed
        spec = replace(spec, precision=precision, quantization=history)
    set_metadata(proto, METADATA_KEY, spec.to_json())
    check_graph(proto, str(source))
    save(proto, output)
    return spec


def _signature(proto: onnx.ModelProto, inputs: bool) -> list[str]:
    """Returns the names, types and fixed sizes of the inputs or the outputs; weights are no inputs."""
    weights = {item.name for item in proto.graph.initializer}
    items = [item for item in (proto.graph.input if inputs else proto.graph.output) if item.name not in weights]
    return [
        f"{item.name} {element_name(item.type.tensor_type.elem_type)}"
        f" [{', '.join(str(dim.dim_value or '?') for dim in item.type.tensor_type.shape.dim)}]"
        for item in items
    ]
