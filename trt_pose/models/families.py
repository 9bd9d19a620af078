"""Networks by model name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from . import pp_yoloe, yolo_nas_detection, yolo_nas_pose
from .model import Model

NAMES = (*yolo_nas_pose.VARIANTS, *yolo_nas_detection.VARIANTS, *pp_yoloe.VARIANTS)


def make(name: str, count: int | None = None) -> Model:
    """The network of ``name`` for ``count`` joints or classes (17 or 80 when None), with torch's initialisation."""
    if name in yolo_nas_pose.VARIANTS:
        return yolo_nas_pose.YoloNASPose(name, count or 17)
    if name in yolo_nas_detection.VARIANTS:
        return yolo_nas_detection.YoloNAS(name, count or 80)
    return pp_yoloe.PPYoloE(name, count or 80)


def count_outputs(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Whether a state dict has ``joints`` or ``classes``, and how many; None when it is of no family here."""
    head = state.get("heads.head1.cls_pred.weight", state.get("head.pred_cls.0.weight"))
    if head is None or head.ndim != 4:
        return None
    if "heads.head1.pose_pred.weight" in state:
        return "joints", len(head) - 1  # the first is the person's own logit
    return "classes", len(head)
