"""PP-YOLOE S, M, L, X (https://arxiv.org/abs/2203.16250).

Attribute names are checkpoint keys; see layers.py.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..card import Card
from ..catalogue import look_up
from ..layers import BINS, ConvBNAct, RepVGG
from ..model import DetectionModel

_BACKBONE_BLOCKS, _NECK_BLOCKS = (3, 6, 6, 3), 3
_BACKBONE_CHANNELS, _NECK_CHANNELS = (64, 128, 256, 512, 1024), (768, 384, 192)


class Variant(NamedTuple):
    """Depth and width multipliers of one model size."""

    depth: float
    width: float

    def channels(self, base: int) -> int:
        return max(round(base * self.width), 1)

    def blocks(self, base: int) -> int:
        return max(round(base * self.depth), 1)


VARIANTS = {
    "ppyoloe_s": Variant(0.33, 0.50),
    "ppyoloe_m": Variant(0.67, 0.75),
    "ppyoloe_l": Variant(1.0, 1.0),
    "ppyoloe_x": Variant(1.33, 1.25),
}


def silu() -> nn.Module:
    return nn.SiLU(inplace=True)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvBNAct:
    return ConvBNAct(inputs, outputs, kernel, stride, act=silu)


class Block(nn.Module):
    """Residual block: ``conv2(conv1(x))``, plus ``x`` if ``shortcut`` is set."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.conv2 = RepVGG(channels, channels, act=silu)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return cast(Tensor, x + y if self.shortcut else y)


class EffectiveSE(nn.Module):
    """Channel attention from one projection of the spatial mean (https://arxiv.org/abs/1911.06667)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.project(x.mean((2, 3), keepdim=True)))


class Stage(nn.Module):
    """A down-sampling cross-stage-partial stage of the backbone."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        middle = 2 * ((inputs + outputs) // 2 // 2)
        self.conv_down = conv(inputs, middle, 3, 2)
        self.conv1 = conv(middle, middle // 2, 1)
        self.conv2 = conv(middle, middle // 2, 1)
        self.blocks = nn.Sequential(*(Block(middle // 2, shortcut=True) for _ in range(blocks)))
        self.attn = EffectiveSE(middle)
        self.conv3 = conv(middle, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_down(x)
        joined = torch.cat([self.conv1(x), self.blocks(self.conv2(x))], dim=1)
        return cast(Tensor, self.conv3(self.attn(joined)))


class Backbone(nn.Module):
    """Backbone: maps (B, 3, H, W) to features at strides 8, 16 and 32."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        stem, *outputs = (variant.channels(base) for base in _BACKBONE_CHANNELS)
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=conv(3, stem // 2, 3, 2),
                conv2=conv(stem // 2, stem // 2, 3),
                conv3=conv(stem // 2, stem, 3),
            )
        )
        inputs = [stem, *outputs]
        self.stages = nn.Sequential(
            *(
                Stage(before, after, variant.blocks(blocks))
                for before, after, blocks in zip(inputs, outputs, _BACKBONE_BLOCKS, strict=False)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1], features[2], features[3]


class SPP(nn.Module):
    """Spatial pyramid pooling with max-pools of sizes 5, 9 and 13."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))
        self.conv = conv(channels * 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1)))


class NeckStage(nn.Module):
    """A cross-stage-partial stage of the neck, with pyramid pooling after its middle block if ``spp`` is set."""

    def __init__(self, inputs: int, outputs: int, blocks: int, spp: bool) -> None:
        super().__init__()
        middle = outputs // 2
        self.conv1 = conv(inputs, middle, 1)
        self.conv2 = conv(inputs, middle, 1)
        self.convs = nn.Sequential()
        for index in range(blocks):
            self.convs.add_module(str(index), Block(middle, shortcut=False))
            if spp and index == (blocks - 1) // 2:
                self.convs.add_module("spp", SPP(middle))
        self.conv3 = conv(middle * 2, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv3(torch.cat([self.conv1(x), self.convs(self.conv2(x))], dim=1)))


class Neck(nn.Module):
    """Neck: merges features at strides 8, 16, 32, top-down, then bottom-up; returns them at strides 32, 16, 8."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        deep = [variant.channels(base) for base in reversed(_BACKBONE_CHANNELS[2:])]
        outputs = [variant.channels(base) for base in _NECK_CHANNELS]
        blocks = variant.blocks(_NECK_BLOCKS)
        fpn = [deep[0], *(skip + out // 2 for skip, out in zip(deep[1:], outputs, strict=False))]
        self.fpn_stages = nn.ModuleList(
            nn.Sequential(NeckStage(inputs, out, blocks, spp=index == 0))
            for index, (inputs, out) in enumerate(zip(fpn, outputs, strict=True))
        )
        self.fpn_routes = nn.ModuleList(conv(out, out // 2, 1) for out in outputs[:-1])
        # Stored from the deepest to the shallowest stage; run in the opposite order.
        self.pan_stages = nn.ModuleList(
            nn.Sequential(NeckStage(out + below, out, blocks, spp=False)) for out, below in itertools.pairwise(outputs)
        )
        self.pan_routes = nn.ModuleList(conv(below, below, 3, 2) for below in outputs[1:])

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        merged: list[Tensor] = []
        route = None
        for index, feature in enumerate((c5, c4, c3)):
            joined = feature if route is None else torch.cat([route, feature], dim=1)
            merged.append(self.fpn_stages[index](joined))
            if index < 2:
                route = F.interpolate(self.fpn_routes[index](merged[-1]), scale_factor=2.0)
        features = [merged[-1]]
        for index in (1, 0):
            route = self.pan_routes[index](features[-1])
            features.append(self.pan_stages[index](torch.cat([route, merged[index]], dim=1)))
        return features[2], features[1], features[0]


class Attention(nn.Module):
    """Attention of the head: ``conv(x * sigmoid(fc(mean)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.conv = conv(channels, channels, 1)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x * torch.sigmoid(self.fc(mean))))


class Head(nn.Module):
    """Head: maps the features of three levels to class logits (B, K, A) and box distributions (B, 4 * BINS, A)."""

    def __init__(self, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.stem_cls = nn.ModuleList(Attention(size) for size in channels)
        self.stem_reg = nn.ModuleList(Attention(size) for size in channels)
        self.pred_cls = nn.ModuleList(nn.Conv2d(size, num_classes, 3, padding=1) for size in channels)
        self.pred_reg = nn.ModuleList(nn.Conv2d(size, 4 * BINS, 3, padding=1) for size in channels)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits, distances = [], []
        for index, feature in enumerate(features):
            mean = feature.mean((2, 3), keepdim=True)
            logits.append(self.pred_cls[index](self.stem_cls[index](feature, mean) + feature).flatten(2))
            distances.append(self.pred_reg[index](self.stem_reg[index](feature, mean)).flatten(2))
        return torch.cat(logits, dim=2), torch.cat(distances, dim=2)


class PPYoloE(DetectionModel):
    """PP-YOLOE.

    ``forward`` takes (B, 3, H, W) float, BGR, normalized by ImageNet's mean and standard deviation, and returns
    ``logits (B, K, A)`` and ``distances (B, 4 * 17, A)``, with levels in the order of strides 32, 16, 8.
    """

    strides = (32, 16, 8)

    def __init__(self, name: str, num_classes: int = 80, variant: Variant | None = None) -> None:
        super().__init__(name, look_up(name).processing, num_classes)
        variant = variant or VARIANTS[name]
        self.backbone = Backbone(variant)
        self.neck = Neck(variant)
        self.head = Head([variant.channels(base) for base in _NECK_CHANNELS], num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.neck(*self.backbone(x)))  # type: ignore[no-any-return]

    def first_conv(self) -> nn.Conv2d:
        return self.backbone.stem.conv1.seq.conv  # type: ignore[union-attr, return-value]


def build(card: Card, joints: int, classes: int) -> PPYoloE:  # noqa: ARG001 - objects have no joints
    """Creates the network of a card with torch's initialisation."""
    return PPYoloE(card.name, classes)


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the number of ``classes`` in a state dict; None when it is of another family."""
    head = state.get("head.pred_cls.0.weight")
    return None if head is None or head.ndim != 4 else {"classes": len(head)}
