"""Task-aligned assignment of people to grid cells (TOOD, https://arxiv.org/abs/2108.07755) with OKS.

As published for YOLO-NAS-Pose, the alignment of a cell with a person is its score times the sixth power of its fit (IoU
times OKS). Of the cells whose centre is inside the person's box, the 13 with the highest alignment learn the person.
Intentional differences: the fit of people without annotated joints is the IoU alone; cells in a crowd are ignored; a
cell contested by several people is assigned only to one of these; target scores are normalized however small the
alignments are.
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
    """Training targets of the A cells.

    Attributes:
        positive: (B, A) bool: cells with an assigned person.
        ignored: (B, A) bool: cells in a crowd without an assigned person; their scores do not count in the loss.
        person: (B, A) int64: index of the assigned person in the picture; 0 elsewhere.
        scores: (B, A) float32: the target score; 0 elsewhere.
    """

    positive: Tensor
    ignored: Tensor
    person: Tensor
    scores: Tensor


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """The assigner; see the module docstring.

    Attributes:
        cells: maximum number of cells per person.
        score_power: exponent of the score, TOOD's alpha.
        fit_power: exponent of the fit, TOOD's beta.
        with_pose: whether the fit is IoU times OKS; otherwise it is the IoU alone.
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
            scores: (B, A) predicted scores in 0..1.
            boxes: (B, A, 4) predicted boxes, xyxy px.
            points: (B, A, J, 2) predicted joints, px.
            centers: (A, 2) centres of the cells, px.
            truth: N annotated people per picture.
            sigmas: (J,) OKS constants.
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
    """Returns (B, N, A): whether the centre of each cell is strictly inside each box."""
    low, high = centers - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centers
    return torch.cat([low, high], dim=-1).amin(dim=-1) > _TINY


def _best(values: Tensor, count: int) -> Tensor:
    """Returns a mask of the ``count`` highest values along the last axis."""
    places = values.topk(min(count, values.shape[-1]), dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, places, True)


def _one_person_each(chosen: Tensor, fit: Tensor) -> Tensor:
    """Assigns each cell selected for several people only to the one it fits best."""
    contested = chosen.sum(dim=1, keepdim=True) > 1
    fits_best = torch.zeros_like(chosen).scatter_(1, fit.masked_fill(~chosen, -1).argmax(dim=1, keepdim=True), True)
    return torch.where(contested, fits_best, chosen)


def _scores(suits: Tensor, fit: Tensor, chosen: Tensor) -> Tensor:
    """Returns the target scores (B, A).

    The cell with the highest alignment gets the best fit of the person's cells; the other cells get less in proportion
    to their alignment.
    """
    suits = suits * chosen
    # Not the published "+ 1e-9": in an untrained network all alignments are smaller, and the targets would vanish.
    share = suits / suits.amax(dim=2, keepdim=True).clamp(min=torch.finfo(suits.dtype).tiny)
    return (share * (fit * chosen).amax(dim=2, keepdim=True)).amax(dim=1)
