"""Photometric steps before the network."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..spec import Normalization


class Normalize(nn.Module):
    """Cast, channel order and ``(x - mean) / std``: (B, 3, H, W) RGB in 0..255 to the network's float32 input."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization
        self.swap = normalization.channels == "BGR"
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("gain", 1.0 / torch.tensor(normalization.std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        if self.swap:
            x = x[:, [2, 1, 0]]
        return (x - cast(Tensor, self.mean)) * cast(Tensor, self.gain)

    def folded_into(self, conv: nn.Conv2d) -> nn.Module:
        """Folds channel order and scale into the weights of ``conv``, the first convolution.

        The result is exact up to rounding when the mean is zero; only the cast then remains and is returned. With a
        nonzero mean the zero padding of the convolution would no longer match the padding in training, so ``conv`` is
        not changed and this module is returned.
        """
        if any(self.normalization.mean):
            return self
        weight = conv.weight.detach() * cast(Tensor, self.gain)  # the input axis is axis 1 here too
        conv.weight = nn.Parameter(weight.flip(1) if self.swap else weight, requires_grad=False)
        return Cast()


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)
