"""The output layouts that ``attach`` reads.

To add a head, add a member to ``HeadName`` and a row to :data:`HEADS`. Layout of the Ultralytics pose models:
https://docs.ultralytics.com/tasks/pose (boxes as centre and size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...choices import HeadName
from ...models.processing import POSE_INPUT
from ...spec import InputSpec, Normalization

Shapes = list[list[int]]
_RGB = Normalization("RGB")


class Yolov8Head(nn.Module):
    """(B, 5 + 3J, A), boxes as centre and size, to boxes, scores and joints."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = maps.transpose(1, 2)  # (B, A, 5 + 3J)
        center, half = rows[..., :2], rows[..., 2:4] * 0.5
        joints = rows[..., 5:].unflatten(2, (-1, 3))  # type: ignore[no-untyped-call]
        return torch.cat([center - half, center + half], dim=2), rows[..., 4:5], joints


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


def _yolov8_sizes(shapes: Shapes) -> tuple[int, int] | None:
    (shape,) = shapes
    if len(shape) != 3 or shape[1] <= 5 or (shape[1] - 5) % 3:
        return None
    return shape[2], (shape[1] - 5) // 3


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
        module: takes them and returns boxes (B, A, 4) xyxy px, scores (B, A, 1) and joints (B, A, J, 3).
        sizes: numbers of anchors and joints from the shapes of the tensors, or None when they do not fit.
        input: image policy of the toolkit.
    """

    tensors: int
    module: type[nn.Module]
    sizes: Callable[[Shapes], tuple[int, int] | None]
    input: InputSpec


HEADS = {
    HeadName.YOLOV8_POSE: Head(
        1, Yolov8Head, _yolov8_sizes, InputSpec(padding="center", pad_value=114, normalization=_RGB)
    ),
    HeadName.YOLO_NAS_POSE: Head(4, YoloNasHead, _yolo_nas_sizes, POSE_INPUT),
    HeadName.DECODED: Head(3, DecodedHead, _decoded_sizes, replace(POSE_INPUT, normalization=_RGB)),
}
