"""YOLO-NAS S, M, L (https://github.com/Deci-AI/super-gradients, YOLONAS.md).

Attribute names are checkpoint keys; see layers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..body import BODY_L, BODY_M, BODY_S, BOX_CHANNELS, STRIDES, Backbone, Body, Neck, rounded
from ..card import Card
from ..catalogue import look_up
from ..layers import BINS, ConvBNAct, set_batch_norm
from ..model import DetectionModel


class Variant(NamedTuple):
    """The dimensions of one model size: body, and width multiplier of the heads."""

    body: Body
    head_width: float


VARIANTS = {
    "yolo_nas_s": Variant(BODY_S, 0.5),
    "yolo_nas_m": Variant(BODY_M, 0.75),
    "yolo_nas_l": Variant(BODY_L, 1.0),
}


class DetectionHead(nn.Module):
    """Head of one level: maps (B, C, h, w) to class logits (B, K, h, w) and box distributions (B, 4 * BINS, h, w)."""

    def __init__(self, inputs: int, inner: int, num_classes: int) -> None:
        super().__init__()
        self.stem = ConvBNAct(inputs, inner, 1)
        self.cls_convs = nn.Sequential(ConvBNAct(inner, inner, 3))
        self.reg_convs = nn.Sequential(ConvBNAct(inner, inner, 3))
        self.cls_pred = nn.Conv2d(inner, num_classes, 1)
        self.reg_pred = nn.Conv2d(inner, 4 * BINS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.cls_pred(self.cls_convs(x)), self.reg_pred(self.reg_convs(x))


class DetectionHeads(nn.Module):
    """The heads of the three levels, concatenated along the anchors (strides 8, 16, 32; cells row by row)."""

    def __init__(self, channels: tuple[int, int, int], width: float, num_classes: int) -> None:
        super().__init__()
        self.head1, self.head2, self.head3 = (
            DetectionHead(inputs, rounded(inner * width), num_classes)
            for inputs, inner in zip(channels, BOX_CHANNELS, strict=True)
        )

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor]:
        levels = zip(self.head1(p3), self.head2(p4), self.head3(p5), strict=True)
        logits, distances = (torch.cat([x.flatten(2) for x in maps], dim=2) for maps in levels)
        return logits, distances


class YoloNAS(DetectionModel):
    """YOLO-NAS.

    ``forward`` takes (B, 3, H, W) float, RGB in 0..1, H and W multiples of 32, and returns ``logits (B, K, A)`` and
    ``distances (B, 4 * 17, A)``.
    """

    strides = STRIDES

    def __init__(self, name: str, num_classes: int = 80, variant: Variant | None = None) -> None:
        """Creates the network called ``name``; ``variant`` overrides its dimensions."""
        super().__init__(name, look_up(name).processing, num_classes)
        variant = variant or VARIANTS[name]
        self.backbone = Backbone(variant.body)
        self.neck = Neck(variant.body)
        self.heads = DetectionHeads(variant.body.feature_channels, variant.head_width, num_classes)
        set_batch_norm(self, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(*self.neck(*self.backbone(x)))  # type: ignore[no-any-return]

    def first_conv(self) -> nn.Conv2d:
        return self.backbone.stem.conv.rbr_reparam


def build(card: Card, joints: int, classes: int) -> YoloNAS:  # noqa: ARG001 - objects have no joints
    """Creates the network of a card with torch's initialisation."""
    return YoloNAS(card.name, classes)


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the number of ``classes`` in a state dict; None when it is of another family."""
    head = state.get("heads.head1.cls_pred.weight")
    if head is None or head.ndim != 4 or "heads.head1.pose_pred.weight" in state:
        return None
    return {"classes": len(head)}
