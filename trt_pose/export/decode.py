"""Decoding of the network heads to boxes, scores and joints in pixels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

Heads = tuple[Tensor, Tensor, Tensor]


class DecodeBoxes(nn.Module):
    """Base of the decoders: the grid cells of an input size, and the decoding of boxes."""

    def __init__(self, strides: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        levels = []
        for stride in strides:
            y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
            corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
            levels.append(torch.cat([corner, torch.full((len(corner), 1), stride)], dim=1))
        # (A, 3): x and y of the upper left corner of each cell, and its stride, px.
        self.register_buffer("cells", torch.cat(levels).float(), persistent=False)

    @property
    def num_anchors(self) -> int:
        return len(cast(Tensor, self.cells))

    def boxes(self, distances: Tensor, cells: Tensor) -> Tensor:
        """Decodes boxes.

        Args:
            distances: (B, 4 * bins, M) logits of the distributions of the distances to the four sides.
            cells: (B or 1, M, 3) corner x, y and stride, px.

        Returns:
            (B, M, 4) xyxy px.
        """
        corner, stride = cells[..., :2], cells[..., 2:]
        bins = distances.shape[1] // 4
        # A product and a sum, not a matrix product: TensorRT may compute those in TF32, 10 bits of mantissa.
        sides = distances.transpose(1, 2).reshape(distances.shape[0], -1, bins)  # (B, M * 4, bins)
        values = torch.arange(bins, device=sides.device, dtype=sides.dtype)
        ltrb = (sides.softmax(dim=2) * values).sum(dim=2).reshape(distances.shape[0], -1, 4) * stride  # (B, M, 4)
        center = corner + stride * 0.5
        return torch.cat([center - ltrb[..., :2], center + ltrb[..., 2:]], dim=2)


class DecodePoses(DecodeBoxes):
    """Decoder of pose models: boxes, scores and joints, of all anchors or of selected ones."""

    def __init__(self, num_joints: int, strides: tuple[int, ...], height: int, width: int) -> None:
        super().__init__(strides, height, width)
        self.num_joints = num_joints

    def joints(self, offsets: Tensor, logits: Tensor, cells: Tensor) -> Tensor:
        """Decodes joints.

        Args:
            offsets: (B, 2J, M) offsets from the cell corners, strides.
            logits: (B, J, M) logits of the joint confidences.
            cells: (B or 1, M, 3) corner x, y and stride, px.

        Returns:
            (B, M, J, 3) x, y px and confidence.
        """
        corner, stride = cells[..., None, :2], cells[..., None, 2:]
        xy = offsets.transpose(1, 2).reshape(offsets.shape[0], -1, self.num_joints, 2) * stride + corner  # (B, M, J, 2)
        return torch.cat([xy, logits.transpose(1, 2).sigmoid().unsqueeze(3)], dim=3)

    def forward(self, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes the heads to boxes (B, A, 4) xyxy px, scores (B, A, 1) and joints (B, A, J, 3) of every anchor."""
        logits, distances, offsets = heads
        cells = cast(Tensor, self.cells)[None]
        scores = logits[:, :1].transpose(1, 2).sigmoid()
        return self.boxes(distances, cells), scores, self.joints(offsets, logits[:, 1:], cells)


class DecodeDetections(DecodeBoxes):
    """Decoder of detection models: boxes and class scores."""

    def forward(self, heads: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Decodes logits (B, K, A) and distances (B, 4 * bins, A) to boxes (B, A, 4) xyxy px and scores (B, A, K)."""
        logits, distances = heads
        return self.boxes(distances, cast(Tensor, self.cells)[None]), logits.transpose(1, 2).sigmoid()
