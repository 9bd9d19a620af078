"""The steps behind the network, per task: decoding, selection, and selection as a TensorRT plugin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models.model import DetectionModel, Model, PoseModel
from ..operators.contract import EFFICIENT_NAME, NAME
from ..operators.selection import Selection, check_limits
from . import select_detection_trt, select_pose_trt
from .decode import DecodeBoxes, DecodeDetections, DecodePoses
from .select import SelectDetections, SelectPoses


@dataclass(frozen=True)
class Steps:
    """The modules of one task.

    Attributes:
        decode: makes the decoder of a model for an input size (height, width), px.
        select: makes the selection from a decoder and a Selection; takes raw heads.
        select_trt: makes the selection that is one plugin node; takes decoded heads. Its arguments are the model, the
            Selection and the batch size, None for a symbolic one.
        operator: name of that node.
        check_trt: raises UsageError when the node cannot take such a graph. Its arguments are the model, the
            Selection, the number of anchors and the batch size.
    """

    decode: Callable[[Any, int, int], DecodeBoxes]
    select: Callable[..., nn.Module]
    select_trt: Callable[[Any, Selection, int | None], nn.Module]
    operator: str
    check_trt: Callable[[Any, Selection, int, int | None], None]


def _decode_poses(model: PoseModel, height: int, width: int) -> DecodePoses:
    return DecodePoses(model.num_joints, model.strides, height, width)


def _decode_detections(model: DetectionModel, height: int, width: int) -> DecodeDetections:
    return DecodeDetections(model.strides, height, width)


def _poses_in_a_node(model: PoseModel, selection: Selection, batch: int | None) -> nn.Module:
    return select_pose_trt.PluginSelect(selection, batch, model.num_joints)


def _detections_in_a_node(_model: DetectionModel, selection: Selection, batch: int | None) -> nn.Module:
    return select_detection_trt.EfficientSelect(selection, batch)


def _check_poses(model: PoseModel, selection: Selection, anchors: int, _batch: int | None) -> None:
    check_limits(selection, anchors, model.num_joints)


def _check_detections(_model: DetectionModel, selection: Selection, _anchors: int, batch: int | None) -> None:
    select_detection_trt.check_limits(selection, batch)


STEPS = {
    PoseModel.task: Steps(_decode_poses, SelectPoses, _poses_in_a_node, NAME, _check_poses),
    DetectionModel.task: Steps(
        _decode_detections, SelectDetections, _detections_in_a_node, EFFICIENT_NAME, _check_detections
    ),
}


def steps_of(model: Model) -> Steps:
    """Returns the steps of a model's task."""
    return STEPS[model.task]
