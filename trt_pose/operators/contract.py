"""Names, attributes and limits of the operators, as specified in README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

NAME, DETECTION_NAME, KEYPOINT_NAME = "PoseNMS_TRT", "DetectionNMS_TRT", "KeypointDecode_TRT"
OWN = (NAME, DETECTION_NAME, KEYPOINT_NAME)  # what this package's plugins provide
VERSION, NAMESPACE = "1", ""
# TensorRT's parser matches operators by name and ignores the domain. A separate domain keeps the ONNX checker from
# treating them as standard operators.
DOMAIN = "TRT"
# TensorRT's own operator for detections, which DetectionNMS_TRT replaces where it is missing. It considers the best
# 4,096 pairs of box and class.
EFFICIENT_NAME, EFFICIENT_VERSION, EFFICIENT_CANDIDATES = "EfficientNMS_TRT", "1", 4096
OPERATORS = (*OWN, EFFICIENT_NAME)
FUNCTIONS = "operators/functions.pb"  # the operators as ONNX functions, written by onnx_functions.py
MAX_ANCHORS, MAX_CLASSES, MAX_CANDIDATES, MAX_OUTPUTS, MAX_JOINTS = 65_536, 4_096, 4_096, 4_096, 256
MAX_ROWS, MAX_HEATMAP, MAX_SIDE = 65_535, 64, 65_535  # of KeypointDecode_TRT; the side of a box in px


@dataclass(frozen=True)
class NmsFields:
    """Attributes of the operators. Raises UsageError when one is out of range."""

    score_threshold: float
    iou_threshold: float
    max_output_boxes: int
    num_pre_nms_predictions: int

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise UsageError(f"NMS plugin: {name} is {value}, expected 0 to 1. Export the model again.")
        for name, most in (("max_output_boxes", MAX_OUTPUTS), ("num_pre_nms_predictions", MAX_CANDIDATES)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise UsageError(f"NMS plugin: {name} is {value}, expected 1 to {most}. Export the model again.")

    @classmethod
    def from_values(cls, values: Mapping[str, float]) -> NmsFields:
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise UsageError(f"NMS plugin: the attributes {', '.join(missing)} are missing. Export the model again.")
        return cls(
            float(values["score_threshold"]),
            float(values["iou_threshold"]),
            int(values["max_output_boxes"]),
            int(values["num_pre_nms_predictions"]),
        )


def check_shapes(shapes: list[list[int]]) -> None:
    """Raises UsageError unless the input shapes fit one of the operators; -1 is an unknown size.

    PoseNMS_TRT takes boxes (B, A, 4), scores (B, A, 1) and joints (B, A, J, 3); DetectionNMS_TRT boxes (B, A, 4) and
    scores (B, A, K).
    """
    boxes, scores, *rest = shapes
    right = (len(boxes), len(scores), *map(len, rest)) in ((3, 3, 4), (3, 3))
    right = right and _agree(boxes[2], 4)
    for joints in rest if right else ():
        right = _agree(scores[2], 1) and _agree(joints[3], 3)
    for axis in (0, 1) if right else ():  # batch and anchors
        sizes = {shape[axis] for shape in shapes} - {-1}
        right = right and len(sizes) <= 1
    if not right:
        raise UsageError(
            f"NMS plugin: got inputs of {shapes}, expected boxes (B, A, 4), scores (B, A, 1), joints (B, A, J, 3), or"
            " boxes and scores (B, A, K). Export the model again."
        )
    if boxes[1] > MAX_ANCHORS or any(joints[2] > MAX_JOINTS for joints in rest) or scores[2] > MAX_CLASSES:
        raise UsageError(
            f"NMS plugin: got inputs of {shapes}, it takes {MAX_ANCHORS} anchors, {MAX_JOINTS} joints and {MAX_CLASSES}"
            " classes at most. Use a smaller input."
        )


def check_heatmaps(shapes: list[list[int]]) -> None:
    """Raises UsageError unless the input shapes fit KeypointDecode_TRT; -1 is an unknown size.

    It takes heatmaps (R, K, S, S) and boxes (R, 4).
    """
    heatmaps, boxes = shapes
    right = len(heatmaps) == 4 and len(boxes) == 2 and _agree(boxes[1], 4)
    right = right and all(len({*pair} - {-1}) <= 1 for pair in ((heatmaps[0], boxes[0]), heatmaps[2:]))
    if not right:
        raise UsageError(
            f"{KEYPOINT_NAME}: got inputs of {shapes}, expected heatmaps (R, K, S, S) and boxes (R, 4). Export the"
            " model again."
        )
    if heatmaps[0] > MAX_ROWS or heatmaps[2] > MAX_HEATMAP:
        raise UsageError(
            f"{KEYPOINT_NAME}: got inputs of {shapes}, it takes {MAX_ROWS} boxes and heatmaps of {MAX_HEATMAP} x"
            f" {MAX_HEATMAP} at most. Lower the batch or the number of predictions."
        )


def _agree(size: int, wanted: int) -> bool:
    return size in (wanted, -1)
