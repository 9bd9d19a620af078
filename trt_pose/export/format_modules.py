"""Conversions to the output formats at the end of the graph."""

from __future__ import annotations

import torch
from torch import Tensor


def flatten_poses(boxes: Tensor, scores: Tensor, joints: Tensor) -> Tensor:
    """Converts the batch format to flat rows (M, 6 + 3J): image index, box, score, joints.

    Args:
        boxes: (B, N, 4).
        scores: (B, N), zero past the count of an image.
        joints: (B, N, J, 3).
    """
    return flatten_rows(scores, boxes, scores.unsqueeze(2), joints.flatten(2))


def flatten_rows(scores: Tensor, *columns: Tensor) -> Tensor:
    """Returns flat rows of the columns (B, N, C) where the score (B, N) is above zero, image by image.

    The first column of the result is the index of the image.
    """
    rows = torch.cat(columns, dim=2)  # (B, N, C)
    found = (scores > 0).nonzero()  # (M, 2): image, row; sorted by image
    image, row = found[:, :1], found[:, 1:]
    kept = rows.flatten(0, 1)[(image * rows.shape[1] + row)[:, 0]]  # (M, C)
    return torch.cat([image.to(rows.dtype), kept], dim=1)
