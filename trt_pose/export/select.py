"""Selection of the final predictions: thresholds, NMS, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..operators.selection import Selection
from .decode import DecodeDetections, DecodePoses, Heads
from .functions import KeepClassScores, KeepScores, TopK


class SelectPoses(nn.Module):
    """Selection of the final poses from the raw heads; joints are decoded for the selected anchors only.

    Returns the batch format: num_predictions (B, 1) int64, pred_boxes (B, N, 4), pred_scores (B, N), pred_joints
    (B, N, J, 3). Rows are sorted by score; rows past the count are zero.
    """

    def __init__(self, decode: DecodePoses, selection: Selection) -> None:
        super().__init__()
        self.decode = decode
        self.selection = selection

    def forward(self, heads: Heads) -> tuple[Tensor, ...]:
        logits, distances, offsets = heads
        chosen, table = self.selection, cast(Tensor, self.decode.cells)
        scores, anchors = TopK.apply(logits[:, 0].sigmoid(), chosen.candidates)  # (B, P)
        boxes = self.decode.boxes(take_rows(distances, anchors), table[anchors])  # (B, P, 4)
        kept = KeepScores.apply(boxes, scores, chosen.limit, chosen.iou, chosen.confidence)  # (B, P)
        scores, rows = TopK.apply(kept, chosen.limit)  # (B, N): the kept scores in order, then zeros
        valid = scores > 0
        boxes = zero_unless(valid.unsqueeze(2), boxes.gather(1, rows.unsqueeze(2).expand(-1, -1, 4)))  # (B, N, 4)
        anchors = anchors.gather(1, rows)
        joints = self.decode.joints(take_rows(offsets, anchors), take_rows(logits, anchors)[:, 1:], table[anchors])
        joints = zero_unless(valid[:, :, None, None], joints)  # (B, N, J, 3)
        return valid.sum(dim=1, keepdim=True), boxes, scores, joints


class SelectDetections(nn.Module):
    """Selection of the final detections from the raw heads.

    The anchors with the highest best-class scores enter NMS with the scores of all their classes. An anchor may be kept
    for several classes.

    Returns the batch format: num_predictions (B, 1) int64, pred_boxes (B, N, 4), pred_scores (B, N), pred_classes
    (B, N) int64. Rows are sorted by score across classes, and the limit applies across classes. Rows past the count are
    zero; their class is -1.
    """

    def __init__(self, decode: DecodeDetections, selection: Selection) -> None:
        super().__init__()
        self.decode = decode
        self.selection = selection

    def forward(self, heads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        logits, distances = heads
        chosen = self.selection
        _, anchors = TopK.apply(logits.amax(dim=1), chosen.candidates)  # (B, P)
        boxes = self.decode.boxes(take_rows(distances, anchors), cast(Tensor, self.decode.cells)[anchors])  # (B, P, 4)
        scores = take_rows(logits, anchors).sigmoid()  # (B, K, P)
        kept = KeepClassScores.apply(boxes, scores, chosen.candidates, chosen.iou, chosen.confidence)
        scores, places = TopK.apply(kept.flatten(1), chosen.limit)  # (B, N), class-major
        valid = scores > 0
        rows = (places % chosen.candidates).unsqueeze(2).expand(-1, -1, 4)
        boxes = zero_unless(valid.unsqueeze(2), boxes.gather(1, rows))  # (B, N, 4)
        classes = torch.where(valid, places // chosen.candidates, -1)
        return valid.sum(dim=1, keepdim=True), boxes, scores, classes


def select_decoded(
    boxes: Tensor,
    scores: Tensor,
    joints: Tensor,
    chosen: Selection,
    top_k: Callable[..., tuple[Tensor, Tensor]],
    keep_scores: Callable[..., Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Selects the final poses of a batch.

    Args:
        boxes: (B, A, 4).
        scores: (B, A, 1).
        joints: (B, A, J, 3).
        chosen: thresholds and limits.
        top_k: the TopK operator to use.
        keep_scores: the NMS operator to use.

    Returns:
        The batch format: count (B, 1), boxes (B, N, 4), scores (B, N), joints (B, N, J, 3).
    """
    ranked, anchors = top_k(scores[:, :, 0], chosen.candidates)  # (B, P)
    candidates = boxes.gather(1, anchors.unsqueeze(2).expand(-1, -1, 4))  # (B, P, 4)
    kept = keep_scores(candidates, ranked, chosen.limit, chosen.iou, chosen.confidence)
    best, places = top_k(kept, chosen.limit)  # (B, N)
    valid = best > 0
    boxes = candidates.gather(1, places.unsqueeze(2).expand(-1, -1, 4))  # (B, N, 4)
    rows = anchors.gather(1, places)[:, :, None, None]
    joints = joints.gather(1, rows.expand(-1, -1, joints.shape[2], 3))  # (B, N, J, 3)
    return (
        valid.sum(dim=1, keepdim=True),
        zero_unless(valid.unsqueeze(2), boxes),
        best,
        zero_unless(valid[:, :, None, None], joints),
    )


def take_rows(maps: Tensor, anchors: Tensor) -> Tensor:
    """Returns the columns ``anchors`` (B, P) of ``maps`` (B, C, A): (B, C, P)."""
    return maps.gather(2, anchors.unsqueeze(1).expand(-1, maps.shape[1], -1))


def zero_unless(keep: Tensor, values: Tensor) -> Tensor:
    return torch.where(keep, values, torch.zeros((), dtype=values.dtype, device=values.device))
