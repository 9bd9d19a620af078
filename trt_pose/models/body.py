"""Backbone and neck of the YOLO-NAS families (https://github.com/Deci-AI/super-gradients, YOLONAS.md).

Attribute names are checkpoint keys; see layers.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import SPP, Conv, CSPLayer, QARepVGG


@dataclass(frozen=True)
class CSP:
    """The dimensions of one stage.

    Attributes:
        outputs: output channels.
        blocks: number of bottlenecks.
        hidden: hidden channels.
        intermediates: True when the outputs of all bottlenecks are concatenated.
    """

    outputs: int
    blocks: int
    hidden: int
    intermediates: bool = False


@dataclass(frozen=True)
class Body:
    """The dimensions of a backbone and its neck.

    Attributes:
        stem: output channels of the stem.
        stages: the four stages of the backbone.
        neck: two up-stages and two down-stages.
    """

    stem: int
    stages: tuple[CSP, CSP, CSP, CSP]
    neck: tuple[CSP, CSP, CSP, CSP]

    @property
    def feature_channels(self) -> tuple[int, int, int]:
        """Channels of the neck's outputs at strides 8, 16 and 32."""
        return (self.neck[1].outputs, self.neck[2].outputs, self.neck[3].outputs)


STRIDES = (8, 16, 32)
BOX_CHANNELS = (128, 256, 512)  # channels of the heads, before the width multiplier
BODY_N = Body(
    32,
    (CSP(64, 2, 32), CSP(128, 3, 48), CSP(256, 4, 64), CSP(512, 2, 128)),
    (CSP(128, 2, 48), CSP(64, 2, 32), CSP(128, 2, 48), CSP(256, 2, 48)),
)
BODY_S = Body(
    48,
    (CSP(96, 2, 32), CSP(192, 3, 64), CSP(384, 5, 96), CSP(768, 2, 192)),
    (CSP(192, 2, 64), CSP(96, 2, 48), CSP(192, 2, 64), CSP(384, 2, 64)),
)
BODY_M = Body(
    48,
    (CSP(96, 2, 64, True), CSP(192, 3, 128, True), CSP(384, 5, 256, True), CSP(768, 2, 384)),
    (CSP(192, 2, 192), CSP(96, 3, 64), CSP(192, 2, 192), CSP(384, 3, 256)),
)
BODY_L = Body(
    48,
    (CSP(96, 2, 96, True), CSP(192, 3, 128, True), CSP(384, 5, 256, True), CSP(768, 2, 512, True)),
    (CSP(192, 4, 128), CSP(96, 4, 128), CSP(192, 4, 128), CSP(384, 4, 256)),
)
# The body of the demonstration model, with a third of the multiplications of BODY_N.
BODY_DEMO = Body(
    16,
    (CSP(32, 1, 16), CSP(64, 2, 32), CSP(128, 3, 48), CSP(192, 1, 64)),
    (CSP(96, 1, 32), CSP(64, 1, 32), CSP(96, 1, 32), CSP(128, 1, 48)),
)


def rounded(channels: float) -> int:
    """Returns the channels of a head by super-gradients' rule: truncated, then rounded up to a multiple of 8."""
    return math.ceil(int(channels) / 8) * 8


class Stem(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = QARepVGG(3, outputs, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Stage(nn.Module):
    def __init__(self, inputs: int, csp: CSP) -> None:
        super().__init__()
        self.downsample = QARepVGG(inputs, csp.outputs, stride=2)
        self.blocks = CSPLayer(csp.outputs, csp.outputs, csp.blocks, csp.hidden, intermediates=csp.intermediates)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))  # type: ignore[no-any-return]


class Backbone(nn.Module):
    """Backbone: maps (B, 3, H, W) to features at strides 4, 8, 16 and 32."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        inputs = [body.stem, *(stage.outputs for stage in body.stages)]
        self.stem = Stem(body.stem)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            Stage(channels, stage) for channels, stage in zip(inputs, body.stages, strict=False)
        )
        self.context_module = SPP(inputs[-1], inputs[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.stage1(self.stem(x))
        c3 = self.stage2(c2)
        c4 = self.stage3(c3)
        return c2, c3, c4, self.context_module(self.stage4(c4))


class UpStage(nn.Module):
    """Merges an up-sampled deep feature with two shallower ones; returns the reduced deep and the merged feature."""

    def __init__(self, inputs: int, skip1: int, skip2: int, csp: CSP) -> None:
        super().__init__()
        out = csp.outputs
        self.reduce_skip1 = Conv(skip1, out, 1)
        self.reduce_skip2 = Conv(skip2, out, 1)
        self.conv = Conv(inputs, out, 1)
        self.upsample = nn.ConvTranspose2d(out, out, 2, 2)
        self.downsample = Conv(out, out, 3, stride=2)
        self.reduce_after_concat = Conv(out * 3, out, 1)
        self.blocks = CSPLayer(out, out, csp.blocks, csp.hidden, intermediates=csp.intermediates)

    def forward(self, x: Tensor, skip1: Tensor, skip2: Tensor) -> tuple[Tensor, Tensor]:
        inter = self.conv(x)
        merged = torch.cat(
            [self.upsample(inter), self.reduce_skip1(skip1), self.downsample(self.reduce_skip2(skip2))], dim=1
        )
        return inter, self.blocks(self.reduce_after_concat(merged))


class DownStage(nn.Module):
    """Down-samples to half of the output channels and merges the result with a skip feature."""

    def __init__(self, inputs: int, skip: int, csp: CSP) -> None:
        super().__init__()
        self.conv = Conv(inputs, csp.outputs // 2, 3, stride=2)
        self.blocks = CSPLayer(
            csp.outputs // 2 + skip, csp.outputs, csp.blocks, csp.hidden, repvgg=False, intermediates=csp.intermediates
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.conv(x), skip], dim=1))  # type: ignore[no-any-return]


class Neck(nn.Module):
    """Path aggregation with a stride-4 skip: maps c2..c5 to p3, p4, p5 (strides 8, 16, 32)."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        c2, c3, c4, c5 = (stage.outputs for stage in body.stages)
        up1, up2, down1, down2 = body.neck
        self.neck1 = UpStage(c5, c4, c3, up1)
        self.neck2 = UpStage(up1.outputs, c3, c2, up2)
        self.neck3 = DownStage(up2.outputs, up2.outputs, down1)
        self.neck4 = DownStage(down1.outputs, up1.outputs, down2)

    def forward(self, c2: Tensor, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inter1, x = self.neck1(c5, c4, c3)
        inter2, p3 = self.neck2(x, c3, c2)
        p4 = self.neck3(p3, inter2)
        return p3, p4, self.neck4(p4, inter1)
