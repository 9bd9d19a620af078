"""The operator PoseNMS_TRT in numbers: its name, attributes and limits, as plugins/README.md specifies them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import UsageError

NAME, VERSION, NAMESPACE = "PoseNMS_TRT", "1", ""
FUNCTION = "assets/pose_nms_function.pb"  # the operator in ONNX's own, written by export/plugin_function.py
MAX_ANCHORS, MAX_CANDIDATES, MAX_OUTPUTS, MAX_JOINTS = 65_536, 4_096, 4_096, 256


@dataclass(frozen=True)
class PoseNmsFields:
    """Attributes of the operator. Raises UsageError when one is out of range."""

    score_threshold: float
    iou_threshold: float
    max_output_boxes: int
    num_pre_nms_predictions: int

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise UsageError(f"{NAME}: {name} is {value}, expected 0 to 1. Export the model again.")
        for name, most in (("max_output_boxes", MAX_OUTPUTS), ("num_pre_nms_predictions", MAX_CANDIDATES)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise UsageError(f"{NAME}: {name} is {value}, expected 1 to {most}. Export the model again.")

    @classmethod
    def from_values(cls, values: Mapping[str, float]) -> PoseNmsFields:
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise UsageError(f"{NAME}: the attributes {', '.join(missing)} are missing. Export the model again.")
        return cls(
            float(values["score_threshold"]),
            float(values["iou_threshold"]),
            int(values["max_output_boxes"]),
            int(values["num_pre_nms_predictions"]),
        )


def check_shapes(shapes: list[list[int]]) -> None:
    """Raises UsageError unless the inputs are boxes (B, A, 4), scores (B, A, 1), joints (B, A, J, 3); -1 is unknown."""
    boxes, scores, joints = shapes
    right = (len(boxes), len(scores), len(joints)) == (3, 3, 4)
    right = right and _agree(boxes[2], 4) and _agree(scores[2], 1) and _agree(joints[3], 3)
    for axis in (0, 1) if right else ():  # batch and anchors
        sizes = {shape[axis] for shape in shapes} - {-1}
        right = right and len(sizes) <= 1
    if not right:
        raise UsageError(
            f"{NAME}: got boxes {boxes}, scores {scores}, joints {joints}, expected (B, A, 4), (B, A, 1), (B, A, J, 3)."
            " Export the model again."
        )
    if boxes[1] > MAX_ANCHORS or joints[2] > MAX_JOINTS:
        raise UsageError(
            f"{NAME}: got {boxes[1]} anchors and {joints[2]} joints, it takes {MAX_ANCHORS} and {MAX_JOINTS} at most."
            " Use a smaller input."
        )


def _agree(size: int, wanted: int) -> bool:
    return size in (wanted, -1)
