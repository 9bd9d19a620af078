"""The output layouts that ``attach`` reads.

To add a head, add a member to ``HeadName`` and a row to :data:`HEADS`. Layout of the Ultralytics pose models:
https://docs.ultralytics.com/tasks/pose (boxes as centre and size). Names and suppression of MMDeploy's pose detectors:
configs/mmpose/pose-detection_rtmo_onnxruntime_dynamic.py of https://github.com/open-mmlab/mmdeploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..choices import HeadName
from ..models.processing import POSE_INPUT
from ..spec import InputSpec, Normalization

Shapes = list[list[int]]
_RGB = Normalization("RGB")


def _with_confidence(joints: Tensor, values: int) -> Tensor:
    """Returns (B, A, J * values) as (B, A, J, 3); joints of two numbers get the confidence 1."""
    joints = joints.unflatten(2, (-1, values))  # type: ignore[no-untyped-call]
    return joints if values == 3 else torch.cat([joints, torch.ones_like(joints[..., :1])], dim=3)


class Yolov8Head(nn.Module):
    """(B, 5 + J * values, A), boxes as centre and size, to boxes, scores and joints."""

    def __init__(self, values: int = 3) -> None:
        super().__init__()
        self.values = values

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = maps.transpose(1, 2)  # (B, A, 5 + J * values)
        center, half = rows[..., :2], rows[..., 2:4] * 0.5
        boxes = torch.cat([center - half, center + half], dim=2)
        return boxes, rows[..., 4:5], _with_confidence(rows[..., 5:], self.values)


class EndToEndHead(nn.Module):
    """(B, N, 6 + J * values), rows of box xyxy, score, class and joints, to boxes, scores and joints."""

    def __init__(self, values: int = 3) -> None:
        super().__init__()
        self.values = values

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rows[..., :4], rows[..., 4:5], _with_confidence(rows[..., 6:], self.values)


class MMDeployHead(nn.Module):
    """``dets`` (B, N, 5), rows of box xyxy and score, and ``keypoints`` (B, N, J, 3), to boxes, scores and joints.

    N may be open: rows of zeros are added, so that a selection always has as many as it takes.
    """

    def forward(self, dets: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dets = torch.cat([dets, torch.zeros_like(dets[:, :1]).expand(-1, OPEN_ROWS, -1)], dim=1)
        points = torch.cat([keypoints, torch.zeros_like(keypoints[:, :1]).expand(-1, OPEN_ROWS, -1, -1)], dim=1)
        return dets[..., :4], dets[..., 4:5], points


class DecodedHead(nn.Module):
    """Boxes (B, A, 4) xyxy, scores (B, A, 1) and joints (B, A, J, 3) as they are."""

    def forward(self, boxes: Tensor, scores: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, joints


class YoloNasHead(nn.Module):
    """Boxes, scores, joints (B, A, J, 2) and their confidences (B, A, J) to boxes, scores and joints (B, A, J, 3)."""

    def forward(
        self, boxes: Tensor, scores: Tensor, joints: Tensor, confidences: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, torch.cat([joints, confidences.unsqueeze(3)], dim=3)


# Rows that a selection behind a file with an open number of rows takes at most.
OPEN_ROWS = 300
# Files that do not say their joints are read by their shapes alone. An output (B, 56, 8400) has 17 joints if its
# columns are candidates, and 2,798 if its rows are; no model has that many.
_MOST_JOINTS = 1000


def _row_sizes(shapes: Shapes, values: int, before: int, axis: int) -> tuple[int, int] | None:
    """Returns the numbers of rows and joints of one tensor whose ``axis`` is ``before`` + J * ``values`` long."""
    (shape,) = shapes
    if len(shape) != 3:
        return None
    joints, rest = divmod(shape[axis] - before, values)
    return (shape[3 - axis], joints) if not rest and 0 < joints <= _MOST_JOINTS else None


def _mmdeploy_sizes(shapes: Shapes) -> tuple[int, int] | None:
    dets, points = shapes
    fits = len(dets) == 3 and dets[2] == 5 and len(points) == 4 and points[3] == 3 and dets[1] == points[1]
    return (OPEN_ROWS, points[2]) if fits else None


def _decoded_sizes(shapes: Shapes, values: int = 3) -> tuple[int, int] | None:
    boxes, scores, points = shapes[:3]
    anchors = boxes[1] if len(boxes) == 3 else 0
    fits = boxes[2:] == [4] and scores[1:] == [anchors, 1] and len(points) == 4
    return (anchors, points[2]) if fits and (points[1], points[3]) == (anchors, values) else None


def _yolo_nas_sizes(shapes: Shapes) -> tuple[int, int] | None:
    sizes = _decoded_sizes(shapes, 2)
    return sizes if sizes is not None and tuple(shapes[3][1:]) == sizes else None


@dataclass(frozen=True)
class Head:
    """One layout of outputs.

    Attributes:
        tensors: number of output tensors.
        module: makes a module that takes them and returns boxes (B, A, 4) xyxy px, scores (B, A, 1) and joints
            (B, A, J, 3).
        sizes: numbers of anchors and joints from the shapes of the tensors, or None when they do not fit.
        input: image policy of the toolkit.
        suppressed: whether the file has removed overlapping boxes itself.
        open_rows: whether the number of rows may be open.
    """

    tensors: int
    module: Callable[[], nn.Module]
    sizes: Callable[[Shapes], tuple[int, int] | None]
    input: InputSpec
    suppressed: bool = False
    open_rows: bool = False


def fitting(shapes: Shapes) -> dict[HeadName, tuple[int, int]]:
    """Returns the heads that tensors of these shapes may be the outputs of, with the numbers of anchors and joints."""
    found = {name: head.sizes(shapes) for name, head in HEADS.items() if head.tensors == len(shapes)}
    fits = {name: sizes for name, sizes in found.items() if sizes is not None}
    if len(shapes) > 1:
        return fits
    # Candidates are more than the numbers of one, in every file known: (B, 56, 100) are 100 of them.
    longest = max(shapes[0][1:], default=0)
    return {name: sizes for name, sizes in fits.items() if sizes[0] == longest} or fits


_ULTRALYTICS = InputSpec(padding="center", pad_value=114, normalization=_RGB)
# Of RTMO and YOLOX-Pose: grey levels as they are, blue first.
_MMPOSE = InputSpec(pad_value=114, normalization=Normalization("BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


HEADS = {
    HeadName.YOLOV8_POSE: Head(1, Yolov8Head, partial(_row_sizes, values=3, before=5, axis=1), _ULTRALYTICS),
    HeadName.YOLOV8_POSE_XY: Head(
        1, partial(Yolov8Head, 2), partial(_row_sizes, values=2, before=5, axis=1), _ULTRALYTICS
    ),
    HeadName.YOLO_END2END_POSE: Head(
        1, EndToEndHead, partial(_row_sizes, values=3, before=6, axis=2), _ULTRALYTICS, suppressed=True
    ),
    HeadName.YOLO_END2END_POSE_XY: Head(
        1, partial(EndToEndHead, 2), partial(_row_sizes, values=2, before=6, axis=2), _ULTRALYTICS, suppressed=True
    ),
    HeadName.MMDEPLOY_POSE: Head(2, MMDeployHead, _mmdeploy_sizes, _MMPOSE, suppressed=True, open_rows=True),
    HeadName.YOLO_NAS_POSE: Head(4, YoloNasHead, _yolo_nas_sizes, POSE_INPUT),
    HeadName.DECODED: Head(3, DecodedHead, _decoded_sizes, replace(POSE_INPUT, normalization=_RGB)),
}
