"""The output formats as the last module of an exported graph; ``trt_pose/formats.py`` reads what they make."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..choices import DetectionOutputFormatMode


class KeepBatch(nn.Module):
    """Batch format: the outputs of the selection as they are."""

    def forward(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return outputs


class Flatten(nn.Module):
    """Flat format: one row per prediction over all images, image by image, behind the index of the image.

    Takes the batch format: count (B, 1), boxes (B, N, 4), scores (B, N), joints (B, N, J, 3) or classes (B, N), where
    unused rows have the score 0. Returns flat_predictions (M, 6 + 3J) or (M, 7).
    """

    def forward(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, boxes, scores, extra = outputs
        columns = extra.flatten(2) if extra.ndim > 2 else extra.unsqueeze(2).to(boxes.dtype)
        rows = torch.cat([boxes, scores.unsqueeze(2), columns], dim=2)  # (B, N, C)
        places = (scores > 0).nonzero()  # (M, 2): image, row; image by image
        image, row = places[:, :1], places[:, 1:]
        kept = rows.flatten(0, 1)[(image * rows.shape[1] + row)[:, 0]]  # (M, C)
        return (torch.cat([image.to(rows.dtype), kept], dim=1),)


FORMAT_MODULES: dict[DetectionOutputFormatMode, type[nn.Module]] = {
    DetectionOutputFormatMode.BATCH_FORMAT: KeepBatch,
    DetectionOutputFormatMode.FLAT_FORMAT: Flatten,
}
