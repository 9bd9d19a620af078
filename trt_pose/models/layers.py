"""Layers shared by the model families, and the folding of batch norms and branches into convolutions.

Attribute names (``branch_3x3``, ``post_bn``, ``rbr_reparam``, ``cv1``, ``seq`` ...) are those of super-gradients'
checkpoints. They must not change, because they are the keys of all published weights files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The distance to each side of a box is a distribution over 0..16 cells (DFL, https://arxiv.org/abs/2006.04388).
BINS = 17
Activation = Callable[[], nn.Module]


def relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Returns one convolution equal to ``bn(conv(x))`` in evaluation mode; computed in float64."""
    weight, bias = _folded(conv.weight, conv.bias, bn)
    return _conv_like(conv, weight, bias)


def _folded(weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, var = cast(Tensor, bn.running_mean).double(), cast(Tensor, bn.running_var).double()
    gain = bn.weight.double() / torch.sqrt(var + bn.eps)
    shift = bn.bias.double() - mean * gain
    bias64 = shift if bias is None else shift + bias.double() * gain
    return weight.double() * gain.reshape(-1, 1, 1, 1), bias64


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    # On the meta device, because the constructor's random initialisation would take longer than the folding.
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 1, device="meta")
    folded.kernel_size, folded.stride, folded.padding = conv.kernel_size, conv.stride, conv.padding
    folded.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return folded


class Conv(nn.Module):
    """Convolution without bias, batch norm and activation. Keys: ``conv``, ``bn``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, act: Activation = relu) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.bn(self.conv(x))))

    def fuse(self) -> None:
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fold_batch_norm(self.conv, self.bn)
            self.bn = nn.Identity()


class ConvBNAct(nn.Module):
    """The layers of :class:`Conv` in a sequential. Keys: ``seq.conv``, ``seq.bn``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, act: Activation = relu) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                bn=nn.BatchNorm2d(outputs),
                act=act(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.seq(x))

    def fuse(self) -> None:
        conv, bn = self.seq.conv, getattr(self.seq, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            self.seq = nn.Sequential(OrderedDict(conv=fold_batch_norm(conv, bn), act=cast(nn.Module, self.seq.act)))


class QARepVGG(nn.Module):
    """QARepVGG block: ``act(post_bn(bn(conv3x3(x)) + conv1x1(x) [+ x]))`` (https://arxiv.org/abs/2212.01593).

    ``rbr_reparam`` is an unused placeholder in training checkpoints; :meth:`fuse` makes it the only convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.branch_3x3 = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                bn=nn.BatchNorm2d(outputs),
            )
        )
        self.branch_1x1 = nn.Conv2d(inputs, outputs, 1, stride)
        self.post_bn = nn.BatchNorm2d(outputs)
        self.rbr_reparam = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.act = relu()
        self.residual = residual
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return cast(Tensor, self.act(self.rbr_reparam(x)))
        y = self.branch_3x3(x) + self.branch_1x1(x)
        if self.residual:
            y = y + x
        return cast(Tensor, self.act(self.post_bn(y)))

    def fuse(self) -> None:
        if self.fused:
            return
        conv = cast(nn.Conv2d, self.branch_3x3.conv)
        weight, bias = _folded(conv.weight, None, cast(nn.BatchNorm2d, self.branch_3x3.bn))
        weight = weight + F.pad(self.branch_1x1.weight.double(), (1, 1, 1, 1))
        bias = bias + cast(Tensor, self.branch_1x1.bias).double()
        if self.residual:  # the identity is a 3x3 kernel with a one in its centre, from each channel to itself
            channel = torch.arange(weight.shape[0])
            weight[channel, channel, 1, 1] += 1.0
        weight, bias = _folded(weight, bias, self.post_bn)
        self.rbr_reparam = _conv_like(self.rbr_reparam, weight, bias)
        del self.branch_3x3, self.branch_1x1, self.post_bn
        self.fused = True


class RepVGG(nn.Module):
    """RepVGG block without the identity branch: ``act(bn(conv3x3(x)) + bn(conv1x1(x)))``.

    Source: https://arxiv.org/abs/2101.03697.
    """

    def __init__(self, inputs: int, outputs: int, act: Activation = relu) -> None:
        super().__init__()
        self.branch_3x3, self.branch_1x1 = (
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False), bn=nn.BatchNorm2d(outputs)
                )
            )
            for kernel in (3, 1)
        )
        self.act = act()
        self.rbr_reparam: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.rbr_reparam is not None:
            return cast(Tensor, self.act(self.rbr_reparam(x)))
        return cast(Tensor, self.act(self.branch_3x3(x) + self.branch_1x1(x)))

    def fuse(self) -> None:
        if self.rbr_reparam is not None:
            return
        wide, narrow = (
            _folded(cast(nn.Conv2d, branch.conv).weight, None, cast(nn.BatchNorm2d, branch.bn))
            for branch in (self.branch_3x3, self.branch_1x1)
        )
        weight = wide[0] + F.pad(narrow[0], (1, 1, 1, 1))
        self.rbr_reparam = _conv_like(cast(nn.Conv2d, self.branch_3x3.conv), weight, wide[1] + narrow[1])
        del self.branch_3x3, self.branch_1x1


class Bottleneck(nn.Module):
    """Bottleneck: ``alpha * x + cv2(cv1(x))`` with a learned scalar alpha."""

    def __init__(self, channels: int, repvgg: bool) -> None:
        super().__init__()
        self.cv1: nn.Module = QARepVGG(channels, channels, residual=True) if repvgg else Conv(channels, channels, 3)
        self.cv2: nn.Module = QARepVGG(channels, channels, residual=True) if repvgg else Conv(channels, channels, 3)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + cast(Tensor, self.cv2(self.cv1(x)))


class CSPLayer(nn.Module):
    """CSP layer: ``conv3(cat(bottlenecks(conv1(x)), conv2(x)))``; ``intermediates`` adds all intermediate outputs."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, hidden: int, *, repvgg: bool = True, intermediates: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, hidden, 1)
        self.conv2 = Conv(inputs, hidden, 1)
        self.conv3 = Conv(hidden * (2 + blocks if intermediates else 2), outputs, 1)
        self.bottlenecks = nn.Sequential(*(Bottleneck(hidden, repvgg) for _ in range(blocks)))
        self.intermediates = intermediates

    def forward(self, x: Tensor) -> Tensor:
        features = [self.conv1(x)]
        for bottleneck in self.bottlenecks:
            features.append(bottleneck(features[-1]))
        kept = features if self.intermediates else features[-1:]
        return cast(Tensor, self.conv3(torch.cat([*kept, self.conv2(x)], dim=1)))


class SPP(nn.Module):
    """Spatial pyramid pooling with max-pools of sizes 5, 9 and 13."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden, 1)
        self.cv2 = Conv(hidden * 4, outputs, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return cast(Tensor, self.cv2(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1)))


def fuse(model: nn.Module) -> None:
    """Folds all batch norms and (QA)RepVGG branches in ``model`` into convolutions, in place; for inference only."""
    with torch.no_grad():
        for module in list(model.modules()):
            if isinstance(module, (Conv, ConvBNAct, QARepVGG, RepVGG)):
                module.fuse()


def set_batch_norm(model: nn.Module, eps: float, momentum: float) -> None:
    """Sets ``eps`` and ``momentum`` of all batch norms in ``model``."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum
