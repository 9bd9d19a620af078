"""Creation of networks by model name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .keypoint_rcnn import network as keypoint_rcnn
from .model import Model
from .pp_yoloe import network as pp_yoloe
from .yolo_nas import network as yolo_nas_detection
from .yolo_nas_pose import network as yolo_nas_pose

NAMES = (*yolo_nas_pose.VARIANTS, *yolo_nas_detection.VARIANTS, *pp_yoloe.VARIANTS, keypoint_rcnn.NAME)


def make(name: str, joints: int | None = None, classes: int | None = None) -> Model:
    """Creates the network called ``name`` with torch's initialisation.

    Args:
        name: name of the model.
        joints: number of joints of a pose model; 17 when None.
        classes: number of classes; 80 when None (Keypoint R-CNN: 2).
    """
    if name in yolo_nas_pose.VARIANTS:
        return yolo_nas_pose.YoloNASPose(name, joints or 17)
    if name in yolo_nas_detection.VARIANTS:
        return yolo_nas_detection.YoloNAS(name, classes or 80)
    if name in pp_yoloe.VARIANTS:
        return pp_yoloe.PPYoloE(name, classes or 80)
    return keypoint_rcnn.KeypointRCNN(name, joints or 17, classes or 2)


def counted(name: str) -> set[str]:
    """Returns the keys of the dict that :func:`count_outputs` returns for the weights of a model."""
    if name == keypoint_rcnn.NAME:
        return {"joints", "classes"}
    return {"joints"} if name in yolo_nas_pose.VARIANTS else {"classes"}


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the numbers of ``joints`` and ``classes`` in a state dict; None when it is of no supported family."""
    head = state.get("heads.head1.cls_pred.weight", state.get("head.pred_cls.0.weight"))
    if head is None or head.ndim != 4:
        return keypoint_rcnn.count_outputs(state)
    if "heads.head1.pose_pred.weight" in state:
        return {"joints": len(head) - 1}  # the first logit is the person's
    return {"classes": len(head)}
