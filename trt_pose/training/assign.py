"""Which cells learn which person: task-aligned assignment (TOOD, https://arxiv.org/abs/2108.07755) with OKS.

As published for YOLO-NAS-Pose: a cell suits a person as well as its score, times the sixth power of how well its box
and its pose fit (IoU times OKS); the 13 best of the cells inside the person's box learn them.
Different on purpose: people without annotated joints are learnt by their boxes, cells in a crowd are left alone, a cell
goes only to one of those who chose it, and shares are relative however little everything suits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .similarity import body_area, box_iou, pose_similarity
from .truth import Truth

_TINY = 1e-9


@dataclass(frozen=True)
class Assignment:
    """What each of the A cells is to learn.

    Attributes:
        positive: (B, A) bool: cells that learn somebody.
        ignored: (B, A) bool: cells in a crowd that learn nobody; what they score is held against nobody.
        person: (B, A) int64: index of them among the picture's people; 0 elsewhere.
        scores: (B, A) float32: the score to learn; 0 elsewhere.
    """

    positive: Tensor
    ignored: Tensor
    person: Tensor
    scores: Tensor


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """See the head of this file.

    Attributes:
        cells: per person, at most. score_power, fit_power: TOOD's alpha and beta.
        with_pose: fit is IoU times OKS; otherwise IoU alone.
    """

    cells: int = 13
    score_power: float = 1.0
    fit_power: float = 6.0
    with_pose: bool = True

    @torch.no_grad()
    def __call__(
        self, scores: Tensor, boxes: Tensor, points: Tensor, centers: Tensor, truth: Truth, sigmas: Tensor
    ) -> Assignment:
        """Assigns the cells of a batch.

        Args:
            scores: (B, A) in 0..1, boxes: (B, A, 4) xyxy px, points: (B, A, J, 2) px: what the network says now.
            centers: (A, 2) px, of the cells. truth: N people per picture. sigmas: (J,).
        """
        batch, anchors = scores.shape
        if truth.boxes.shape[1] == 0:
            nobody = torch.zeros(batch, anchors, dtype=torch.bool, device=scores.device)
            return Assignment(nobody, nobody, nobody.long(), scores.new_zeros(batch, anchors))
        fit = box_iou(truth.boxes[:, :, None], boxes[:, None])  # (B, N, A)
        if self.with_pose:
            oks = pose_similarity(points, truth.joints, body_area(truth.boxes), sigmas)
            annotated = (truth.joints[..., 2] > 0).any(dim=2)  # (B, N)
            fit = torch.where(annotated[:, :, None], fit * oks, fit)
        suits = scores[:, None].pow(self.score_power) * fit.pow(self.fit_power)
        inside = _inside(centers, truth.boxes) & truth.present[:, :, None]
        free = inside & ~truth.crowd[:, :, None]
        chosen = _one_person_each(_best(suits * free, self.cells) & free, fit)
        positive = chosen.any(dim=1)  # (B, A)
        ignored = (inside & truth.crowd[:, :, None]).any(dim=1) & ~positive
        person = chosen.to(torch.uint8).argmax(dim=1)
        return Assignment(positive, ignored, person, _scores(suits, fit, chosen))


def _inside(centers: Tensor, boxes: Tensor) -> Tensor:
    """(B, N, A): whether each cell's centre lies in each box, its border left out."""
    low, high = centers - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centers
    return torch.cat([low, high], dim=-1).amin(dim=-1) > _TINY


def _best(values: Tensor, count: int) -> Tensor:
    """The ``count`` highest along the last axis, as a mask."""
    places = values.topk(min(count, values.shape[-1]), dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, places, True)


def _one_person_each(chosen: Tensor, fit: Tensor) -> Tensor:
    """A cell several people chose is given to the one of them it fits best."""
    contested = chosen.sum(dim=1, keepdim=True) > 1
    fits_best = torch.zeros_like(chosen).scatter_(1, fit.masked_fill(~chosen, -1).argmax(dim=1, keepdim=True), True)
    return torch.where(contested, fits_best, chosen)


def _scores(suits: Tensor, fit: Tensor, chosen: Tensor) -> Tensor:
    """(B, A): a person's best cell is to score its fit, the others as much less as they suit less."""
    suits = suits * chosen
    # Not the published "+ 1e-9": of an untrained network everything suits less than that, and nobody would be learnt.
    share = suits / suits.amax(dim=2, keepdim=True).clamp(min=torch.finfo(suits.dtype).tiny)
    return (share * (fit * chosen).amax(dim=2, keepdim=True)).amax(dim=1)
