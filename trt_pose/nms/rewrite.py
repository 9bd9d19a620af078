"""DetectionNMS_TRT in place of EfficientNMS_TRT, for a TensorRT that has none of its own.

The two give the same rows for the attributes trt_pose exports, but for scores and overlaps that equal a threshold; past
the count ours has class -1, EfficientNMS_TRT 0.
"""

from __future__ import annotations

from typing import Any

import onnx

from ..errors import EngineError
from . import contract

# What DetectionNMS_TRT does; EfficientNMS_TRT takes other values, too.
_FIXED = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0}


def replace_efficient_nms(model: onnx.ModelProto) -> None:
    """Rewrites every EfficientNMS_TRT node, in place.

    Raises:
        EngineError: a node asks for what DetectionNMS_TRT does not do.
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
