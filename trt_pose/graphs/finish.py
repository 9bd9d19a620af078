"""The last steps of every ONNX model that is written: simplify, describe, check."""

from __future__ import annotations

import onnx

from ..formats import find_format
from ..optional import needed
from ..spec import METADATA_KEY, ModelSpec
from .file import check_graph, set_metadata


def simplify(proto: onnx.ModelProto, hint: str = "") -> onnx.ModelProto:
    """Folds constants and removes redundant nodes.

    Raises:
        MissingDependencyError: onnxslim is not installed; the message ends with ``hint``, what to do without it.
    """
    with needed("simplifying", hint):
        import onnxslim
    slimmed: onnx.ModelProto = onnxslim.slim(proto)
    return slimmed


def finish(proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Stores the description in the model and checks the graph. Raises ExportError when the check fails."""
    for axis, size in find_format(spec).sizes(spec).items():
        proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = size
    # The simplifier leaves unused plugin outputs without a type; the checker rejects such entries.
    typed = [item for item in proto.graph.value_info if item.type.tensor_type.elem_type]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(typed)
    del proto.metadata_props[:]
    set_metadata(proto, METADATA_KEY, spec.to_json())
    proto.producer_name = "trt_pose"
    proto.producer_version = spec.generator.rpartition(" ")[2]
    proto.graph.name = spec.model
    check_graph(proto, f"the ONNX graph of {spec.model}")
