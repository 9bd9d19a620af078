"""Output layouts of other toolkits that ``attach`` supports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ...errors import ExportError
from ...models.processing import POSE_INPUT
from ...spec import InputSpec, Normalization

HEADS = ("yolov8-pose", "yolo-nas-pose", "decoded")


# Name prefixes of the original graph and of the parts before and after it, so that names cannot collide.
THEIRS, FRONT, TAIL = "model/", "front/", "tail/"


def own_name(name: str) -> str:
    """Returns the name as it is in the original file, without the prefix."""
    return name.removeprefix(THEIRS)


def shape_of(item: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.dim_value > 0 else None for dim in item.type.tensor_type.shape.dim]


class _Yolov8Head(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = maps.transpose(1, 2)  # (B, A, 5 + 3J)
        center, half = rows[..., :2], rows[..., 2:4] * 0.5
        joints = rows[..., 5:].unflatten(2, (-1, 3))  # type: ignore[no-untyped-call]
        return torch.cat([center - half, center + half], dim=2), rows[..., 4:5], joints


class _DecodedHead(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, joints


class _YoloNasHead(nn.Module):
    def forward(
        self, boxes: Tensor, scores: Tensor, joints: Tensor, confidences: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, torch.cat([joints, confidences.unsqueeze(3)], dim=3)


class Tail(nn.Module):
    def __init__(self, head: nn.Module, select: nn.Module) -> None:
        super().__init__()
        self.head, self.select = head, select

    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        return self.select(self.head(*outputs))  # type: ignore[no-any-return]


HEAD_MODULES: dict[str, type[nn.Module]] = dict(zip(HEADS, (_Yolov8Head, _YoloNasHead, _DecodedHead), strict=True))
POLICIES = {
    "yolov8-pose": InputSpec(padding="center", pad_value=114, normalization=Normalization("RGB")),
    "yolo-nas-pose": POSE_INPUT,
    "decoded": replace(POSE_INPUT, normalization=Normalization("RGB")),
}


def output_shapes(
    proto: onnx.ModelProto, names: list[str], source: str | Path, head: str, batch: int | None
) -> list[list[int]]:
    known = {item.name: shape_of(item) for item in (*proto.graph.output, *proto.graph.value_info)}
    missing = [name for name in names if name not in known]
    wanted = {"yolov8-pose": 1, "yolo-nas-pose": 4, "decoded": 3}[head]
    if missing or len(names) != wanted:
        have = ", ".join(own_name(item.name) for item in proto.graph.output)
        raise ExportError(
            f"attaching to {source}: head {head} takes {wanted} tensors, got {', '.join(map(own_name, names))}; the"
            f" file's outputs are {have}. Name the tensors."
        )
    shapes = []
    for name in names:
        if known[name][:1] != [batch]:
            raise ExportError(
                f"attaching to {source}: {own_name(name)} has batch {known[name][:1]}, the image input {batch}. Export"
                " the file with one batch size throughout."
            )
        shape = [batch or 2, *known[name][1:]]
        if any(size is None for size in shape):
            raise ExportError(
                f"attaching to {source}: the shape of {own_name(name)} is not fixed. Export it with a fixed size."
            )
        shapes.append([int(size) for size in shape if size is not None])
    return shapes


def sizes(head: str, shapes: list[list[int]], names: list[str], source: str | Path) -> tuple[int, int]:
    """Returns the numbers of anchors and joints, read from the shapes. Raises ExportError for other layouts."""
    if head == "yolov8-pose":
        (shape,) = shapes
        right = len(shape) == 3 and shape[1] > 5 and (shape[1] - 5) % 3 == 0
        anchors, joints = (shape[2], (shape[1] - 5) // 3) if right else (0, 0)
    else:
        boxes, scores, points = shapes[:3]
        anchors, last = boxes[1], 3 if head == "decoded" else 2
        right = boxes[2:] == [4] and scores[1:] == [anchors, 1] and len(points) == 4
        right = right and (points[1], points[3]) == (anchors, last)
        joints = points[2] if right else 0
        right = right and (head == "decoded" or shapes[3][1:] == [anchors, joints])
    if not right:
        listed = ", ".join(f"{own_name(name)} {shape}" for name, shape in zip(names, shapes, strict=True))
        raise ExportError(f"attaching to {source}: {listed} is not what head {head} gives. Choose another head.")
    return anchors, joints
