"""Output formats as steps at the end of the graph."""

from __future__ import annotations

import torch
from torch import Tensor


def flatten_poses(boxes: Tensor, scores: Tensor, joints: Tensor) -> Tensor:
    """Batch format, (B, N, 4), (B, N) and (B, N, J, 3), zero past the counts, to flat rows (M, 6 + 3J)."""
    return flatten_rows(scores, boxes, scores.unsqueeze(2), joints.flatten(2))


def flatten_rows(scores: Tensor, *columns: Tensor) -> Tensor:
    """Columns (B, N, C) of the rows whose score (B, N) is above zero, image by image, behind the image's index."""
    rows = torch.cat(columns, dim=2)  # (B, N, C)
    found = (scores > 0).nonzero()  # (M, 2): image, row; image by image
    image, row = found[:, :1], found[:, 1:]
    kept = rows.flatten(0, 1)[(image * rows.shape[1] + row)[:, 0]]  # (M, C)
    return torch.cat([image.to(rows.dtype), kept], dim=1)
