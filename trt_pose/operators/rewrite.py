"""Replacement of EfficientNMS_TRT by DetectionNMS_TRT, for a TensorRT without EfficientNMS_TRT.

For the attributes that trt_pose exports, both operators give the same rows, except where a score or an overlap equals a
threshold. In rows beyond the count the class is -1 for DetectionNMS_TRT and 0 for EfficientNMS_TRT.
"""

from __future__ import annotations

import onnx

from ..errors import EngineError
from ..graphs.surgery import to_graph, to_model
from . import contract

# The values that DetectionNMS_TRT implements; EfficientNMS_TRT supports others, too.
_FIXED = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0}


def replace_efficient_nms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with every EfficientNMS_TRT node replaced.

    Raises:
        EngineError: a node has an attribute value that DetectionNMS_TRT does not support.
    """
    graph = to_graph(model)
    for node in graph.nodes:
        if node.op != contract.EFFICIENT_NAME:
            continue
        other = [name for name, value in _FIXED.items() if node.attrs.get(name, value) != value]
        if other:
            raise EngineError(
                f"replacing {contract.EFFICIENT_NAME}: {other[0]} is {node.attrs[other[0]]}, {contract.DETECTION_NAME}"
                f" has {_FIXED[other[0]]} only. Export the model with trt-pose, or build it with a TensorRT that has"
                f" {contract.EFFICIENT_NAME}."
            )
        node.op = contract.DETECTION_NAME
        node.attrs = {
            **{name: value for name, value in node.attrs.items() if name in contract.NmsFields.__dataclass_fields__},
            "num_pre_nms_predictions": contract.EFFICIENT_CANDIDATES,
            "plugin_version": contract.VERSION,
            "plugin_namespace": contract.NAMESPACE,
        }
    return to_model(graph, model)
