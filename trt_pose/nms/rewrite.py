"""Replacement of EfficientNMS_TRT by DetectionNMS_TRT, for a TensorRT without EfficientNMS_TRT.

For the attributes that trt_pose exports, both operators give the same rows, except where a score or an overlap equals a
threshold. In rows beyond the count the class is -1 for DetectionNMS_TRT and 0 for EfficientNMS_TRT.
"""

from __future__ import annotations

from typing import Any

import onnx

from ..errors import EngineError
from . import contract

# The values that DetectionNMS_TRT implements; EfficientNMS_TRT supports others, too.
_FIXED = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0}


def replace_efficient_nms(model: onnx.ModelProto) -> None:
    """Replaces every EfficientNMS_TRT node of a model, in place.

    Raises:
        EngineError: a node has an attribute value that DetectionNMS_TRT does not support.
    """
    for node in model.graph.node:
        if node.op_type != contract.EFFICIENT_NAME:
            continue
        given: dict[str, Any] = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        other = [name for name, value in _FIXED.items() if given.get(name, value) != value]
        if other:
            raise EngineError(
                f"replacing {contract.EFFICIENT_NAME}: {other[0]} is {given[other[0]]}, {contract.DETECTION_NAME} has"
                f" {_FIXED[other[0]]} only. Export the model with trt-pose, or build it with a TensorRT that has"
                f" {contract.EFFICIENT_NAME}."
            )
        kept = [item for item in node.attribute if item.name in contract.NmsFields.__dataclass_fields__]
        node.op_type = contract.DETECTION_NAME
        del node.attribute[:]
        node.attribute.extend(kept)
        own = {
            "num_pre_nms_predictions": contract.EFFICIENT_CANDIDATES,
            "plugin_version": contract.VERSION,
            "plugin_namespace": contract.NAMESPACE,
        }
        node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in own.items())
