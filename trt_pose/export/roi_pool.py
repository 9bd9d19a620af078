"""RoIAlign over a feature pyramid with fixed shapes, by one ``GridSample``.

TensorRT-RTX does not parse ONNX ``RoiAlign`` without a GPU, and torchvision's ``MultiScaleRoIAlign`` sorts the boxes by
level, so its shapes depend on the data. Here the levels lie below each other in one map. Each box samples the part of
its own level, and the samples of a bin are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError


class RoiPool(nn.Module):
    """What a ``torchvision.ops.MultiScaleRoIAlign`` computes for images of one size, to 1e-4 of the largest feature.

    Args:
        pool: torchvision's module.
        sizes: (height, width) of each level of the pyramid, the finest first; ``pool`` reads the first of them.
        strides: the stride of each of them, px.

    Raises:
        UsageError: ``pool`` samples adaptively.
    """

    def __init__(self, pool: Any, sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> None:
        super().__init__()
        if pool.sampling_ratio < 1:
            raise UsageError(
                f"exporting a Keypoint R-CNN for TensorRT: its RoIAlign has sampling_ratio {pool.sampling_ratio}, so"
                " the number of samples depends on the box. Set it to 2."
            )
        self.names = tuple(pool.featmap_names)
        sizes, strides = sizes[: len(self.names)], strides[: len(self.names)]
        self.side, self.samples = int(pool.output_size[0]), int(pool.sampling_ratio)
        self.finest = int(math.log2(strides[0]))
        self.canonical, self.canonical_level = float(pool.canonical_scale), float(pool.canonical_level)
        self.height, self.width = sum(height for height, _ in sizes) + 1, max(width for _, width in sizes)
        tops = [sum(height for height, _ in sizes[:place]) for place in range(len(sizes))]
        # Per level: scale, last column, last row, first row in the map.
        rows = [
            (1.0 / stride, width - 1, height - 1, top)
            for stride, (height, width), top in zip(strides, sizes, tops, strict=True)
        ]
        steps = (torch.arange(self.side * self.samples, dtype=torch.float32) + 0.5) / self.samples / self.side
        self.register_buffer("levels", torch.tensor(rows, dtype=torch.float32), persistent=False)
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, features: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
        """Returns (B * R, C, side, side) of features (B, C, H, W), by level, and boxes (B, R, 4) xyxy px.

        The corners of a box lie in the image, the second below and right of the first.
        """
        batch, count = int(boxes.shape[0]), int(boxes.shape[1])
        grid = self._place(boxes)
        sampled = F.grid_sample(
            self._stack([features[name] for name in self.names]),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )  # (B, C, R * samples of a side, samples of a side)
        pooled = F.avg_pool2d(sampled, self.samples)
        channels = int(pooled.shape[1])
        apart = pooled.reshape(batch, channels, count, self.side, self.side).permute(0, 2, 1, 3, 4)
        return apart.reshape(batch * count, channels, self.side, self.side)

    def _stack(self, features: Sequence[Tensor]) -> Tensor:
        """Returns the levels below each other, and a row of zeros at the end: (B, C, height, width)."""
        widened = [F.pad(level, (0, self.width - int(level.shape[3]))) for level in features]
        return torch.cat([*widened, torch.zeros_like(widened[-1][:, :, :1])], dim=2)

    def _place(self, boxes: Tensor) -> Tensor:
        """Returns where the map is sampled, (B, R * samples of a side, samples of a side, 2) in -1..1."""
        x1, y1, x2, y2 = boxes.unbind(2)
        area = ((x2 - x1) * (y2 - y1)).clamp(min=1.0)  # smaller boxes are of the finest level in any case
        level = torch.floor(self.canonical_level + torch.log2(torch.sqrt(area) / self.canonical) + 1e-6)
        number = (level - self.finest).clamp(0, len(cast(Tensor, self.levels)) - 1).to(torch.int64)
        scale, last_x, last_y, top = cast(Tensor, self.levels)[number].unsqueeze(2).unbind(3)  # (B, R, 1) each
        x, beyond_x = self._along(x1, x2, scale, last_x)
        y, beyond_y = self._along(y1, y2, scale, last_y)
        # Samples more than a pixel beyond the level count as zero.
        beyond = beyond_x.unsqueeze(2) | beyond_y.unsqueeze(3)
        down = (y + top).unsqueeze(3).expand(beyond.shape)
        down = torch.where(beyond, torch.full_like(down, self.height - 1.0), down)
        across = x.unsqueeze(2).expand(beyond.shape)
        grid = torch.stack([across * (2.0 / (self.width - 1)) - 1.0, down * (2.0 / (self.height - 1)) - 1.0], dim=4)
        batch, count, side = int(boxes.shape[0]), int(boxes.shape[1]), self.side * self.samples
        return grid.reshape(batch, count * side, side, 2)

    def _along(self, start: Tensor, end: Tensor, scale: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the samples of one axis in px of the level, (B, R, samples), and which lie beyond it."""
        first = start.unsqueeze(2) * scale
        length = (end.unsqueeze(2) * scale - first).clamp(min=1.0)
        places = first + cast(Tensor, self.steps) * length
        return torch.minimum(places, last), places > last + 1.0
