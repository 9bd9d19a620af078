"""YOLO-NAS-Pose N, S, M, L (https://github.com/Deci-AI/super-gradients, YOLONAS-POSE.md).

Attribute names are checkpoint keys; see layers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..body import BODY_DEMO, BODY_L, BODY_M, BODY_N, BODY_S, BOX_CHANNELS, STRIDES, Backbone, Body, Neck, rounded
from ..card import Card
from ..catalogue import look_up
from ..layers import BINS, ConvBNAct, set_batch_norm
from ..model import PoseModel

_POSE_CHANNELS, _POSE_BLOCKS = (128, 512, 512), (2, 2, 3)


class Variant(NamedTuple):
    """The dimensions of one model size.

    Attributes:
        body: backbone and neck.
        head_width: width multiplier of the heads.
        bn_momentum: momentum of the batch norms.
    """

    body: Body
    head_width: float
    bn_momentum: float


VARIANTS = {
    "yolo_nas_pose_n": Variant(BODY_N, 0.33, 0.03),
    "yolo_nas_pose_s": Variant(BODY_S, 0.5, 0.1),
    "yolo_nas_pose_m": Variant(BODY_M, 0.75, 0.1),
    "yolo_nas_pose_l": Variant(BODY_L, 1.0, 0.03),
    "demo": Variant(BODY_DEMO, 0.2, 0.03),
}


class PoseHead(nn.Module):
    """Head of one level: maps (B, C, h, w) to class logits, box distributions and joint offsets."""

    def __init__(self, inputs: int, box: int, pose: int, pose_blocks: int, num_joints: int) -> None:
        super().__init__()
        self.pose_stem = ConvBNAct(inputs, pose, 1)
        self.bbox_stem = ConvBNAct(inputs, box, 1)
        self.cls_convs = nn.Sequential(ConvBNAct(box, box, 3))
        self.reg_convs = nn.Sequential(ConvBNAct(box, box, 3))
        self.pose_convs = nn.Sequential(*(ConvBNAct(pose, pose, 3) for _ in range(pose_blocks)))
        self.reg_pred = nn.Conv2d(box, 4 * BINS, 1)
        self.cls_pred = nn.Conv2d(box, 1 + num_joints, 1)
        self.pose_pred = nn.Conv2d(pose, 2 * num_joints, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        box = self.bbox_stem(x)
        return (
            self.cls_pred(self.cls_convs(box)),  # (B, 1 + J, h, w)
            self.reg_pred(self.reg_convs(box)),  # (B, 4 * BINS, h, w)
            self.pose_pred(self.pose_convs(self.pose_stem(x))),  # (B, 2 * J, h, w)
        )


class PoseHeads(nn.Module):
    """The heads of the three levels, concatenated along the anchors (strides 8, 16, 32; cells row by row)."""

    def __init__(self, channels: tuple[int, int, int], width: float, num_joints: int) -> None:
        super().__init__()
        heads = [
            PoseHead(inputs, rounded(box * width), rounded(pose * width), blocks, num_joints)
            for inputs, box, pose, blocks in zip(channels, BOX_CHANNELS, _POSE_CHANNELS, _POSE_BLOCKS, strict=True)
        ]
        self.head1, self.head2, self.head3 = heads

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = zip(self.head1(p3), self.head2(p4), self.head3(p5), strict=True)
        logits, distances, offsets = (torch.cat([x.flatten(2) for x in maps], dim=2) for maps in levels)
        return logits, distances, offsets


class YoloNASPose(PoseModel):
    """YOLO-NAS-Pose.

    ``forward`` takes (B, 3, H, W) float, BGR in 0..1, H and W multiples of 32, and returns the raw heads
    ``logits (B, 1 + J, A)``, ``distances (B, 4 * 17, A)``, ``offsets (B, 2J, A)``, which
    :class:`trt_pose.export.decode.DecodePoses` turns into boxes and joints.
    """

    strides = STRIDES

    def __init__(self, name: str, num_joints: int = 17, variant: Variant | None = None) -> None:
        """Creates the network called ``name``; ``variant`` overrides its dimensions."""
        card = look_up(name)
        super().__init__(name, card.processing, num_joints)
        variant = variant or VARIANTS[name]
        self.backbone = Backbone(variant.body)
        self.neck = Neck(variant.body)
        self.heads = PoseHeads(variant.body.feature_channels, variant.head_width, num_joints)
        set_batch_norm(self, eps=1e-6, momentum=variant.bn_momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.heads(*self.neck(*self.backbone(x)))  # type: ignore[no-any-return]

    def first_conv(self) -> nn.Conv2d:
        return self.backbone.stem.conv.rbr_reparam


def build(card: Card, joints: int, classes: int) -> YoloNASPose:  # noqa: ARG001 - poses have one class
    """Creates the network of a card with torch's initialisation."""
    return YoloNASPose(card.name, joints)


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the number of ``joints`` in a state dict; None when it is of another family."""
    head = state.get("heads.head1.cls_pred.weight")
    if head is None or head.ndim != 4 or "heads.head1.pose_pred.weight" not in state:
        return None
    return {"joints": len(head) - 1}  # the first logit is the person's
