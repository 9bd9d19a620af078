"""Thresholds and limits of a selection, and what PoseNMS_TRT takes of them."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .contract import MAX_ANCHORS, MAX_CANDIDATES, MAX_JOINTS, MAX_OUTPUTS, NAME


@dataclass(frozen=True)
class Selection:
    """Thresholds and limits of the selection.

    Attributes:
        confidence: candidates with a higher score are kept.
        iou: boxes whose IoU with a better box is higher are suppressed.
        candidates: maximum number of candidates per image that enter NMS.
        limit: maximum number of predictions per image.
    """

    confidence: float = 0.5
    iou: float = 0.7
    candidates: int = 1000
    limit: int = 1000


def check_limits(selection: Selection, anchors: int, joints: int) -> None:
    """Raises UsageError when a limit, the anchors or the joints exceed what the plugin supports."""
    for name, value, most in (
        ("num_pre_nms_predictions", selection.candidates, MAX_CANDIDATES),
        ("max_predictions_per_image", selection.limit, MAX_OUTPUTS),
        ("the number of joints", joints, MAX_JOINTS),
        ("the number of anchors", anchors, MAX_ANCHORS),
    ):
        if value > most:
            raise UsageError(f"exporting for TensorRT: {name} is {value}, {NAME} takes {most} at most. Lower it.")
