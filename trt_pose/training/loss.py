"""The loss of YOLO-NAS-Pose as published (super-gradients, YOLO-NAS-POSE recipes).

Scores: focal loss against the assigned score. Boxes: CIoU, and DFL on the distributions. Joints: 1 - OKS of each joint.
Joint confidences: focal loss against whether the joint is annotated. The box and joint terms are weighted by the
assigned score.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.decode import DecodePoses, Heads
from .assign import Assignment, TaskAlignedAssigner
from .similarity import body_area, complete_iou, joint_similarity
from .truth import Truth

PARTS = ("score", "box", "distribution", "joints", "confidence", "distance")
CLASSIFICATIONS = ("focal", "varifocal", "bce")


@dataclass(frozen=True)
class LossWeights:
    """Weights of :data:`PARTS`; the defaults are those of the published recipes.

    ``distance`` is not part of the published loss. It weights the plain distance of joints, because OKS has no gradient
    far from the truth (for an eye, ten sigmas away). Fine-tuning does not use it.
    """

    score: float = 1.0
    box: float = 2.5
    distribution: float = 0.01
    joints: float = 34.0
    confidence: float = 1.0
    distance: float = 0.0


@dataclass(frozen=True)
class PoseLoss:
    """Loss of a batch, called with the raw heads of the network.

    Attributes:
        decode: decoder of the input size.
        sigmas: (J,) OKS constants.
        weights: weights of the parts.
        assigner: assignment of people to cells.
        classification: loss of the scores: ``focal`` (published), ``varifocal`` (https://arxiv.org/abs/2008.13367) or
            ``bce``.
    """

    decode: DecodePoses
    sigmas: Tensor
    weights: LossWeights = field(default_factory=LossWeights)
    assigner: TaskAlignedAssigner = field(default_factory=TaskAlignedAssigner)
    classification: str = "focal"

    def __call__(self, heads: Heads, truth: Truth) -> dict[str, Tensor]:
        """Returns the weighted parts of the loss, scalars by name; the loss is their sum.

        Args:
            heads: logits (B, 1 + J, A), distances (B, 4 * bins, A), offsets (B, 2J, A); converted to float32.
            truth: the annotated people, px of the network input.
        """
        logits, distances, offsets = (head.float() for head in heads)
        cells = self.decode.get_buffer("cells")  # (A, 3) corner x, y and stride, px
        centers = cells[:, :2] + cells[:, 2:] / 2
        boxes = self.decode.boxes(distances, cells[None])  # (B, A, 4)
        joints = self.decode.joints(offsets, logits[:, 1:], cells[None])  # (B, A, J, 3)
        scores = logits[:, 0]
        found = self.assigner(scores.sigmoid(), boxes, joints[..., :2], centers, truth, self.sigmas)
        total = found.scores.sum().clamp(min=1.0)
        image, cell = found.positive.nonzero(as_tuple=True)  # P positives
        weight = found.scores[image, cell] / total  # (P,)
        person = found.person[image, cell]
        true_boxes, true_joints = truth.boxes[image, person], truth.joints[image, person]
        terms = {
            "score": self._score(scores, found) / total,
            "box": ((1 - complete_iou(boxes[image, cell], true_boxes)) * weight).sum(),
            "distribution": _distribution(distances[image, :, cell], cells[cell], true_boxes, weight),
            "joints": self._joints(joints[image, cell, :, :2], true_joints, true_boxes, weight),
            "confidence": _confidence(logits[image, 1:, cell], true_joints, weight),
            "distance": _distance(joints[image, cell, :, :2], true_joints, true_boxes, weight),
        }
        return {name: terms[name] * getattr(self.weights, name) for name in PARTS}

    def _score(self, logits: Tensor, found: Assignment) -> Tensor:
        plain = F.binary_cross_entropy_with_logits(logits, found.scores, reduction="none")
        plain, said = plain.masked_fill(found.ignored, 0), logits.sigmoid()
        if self.classification == "focal":
            plain = plain * (said - found.scores).abs().square()
        elif self.classification == "varifocal":
            plain = plain * torch.where(found.positive, found.scores, 0.75 * said.square())
        return plain.sum()

    def _joints(self, points: Tensor, truth: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
        """Returns the weighted sum of 1 - OKS of (P, J, 2) points, a mean over the annotated joints of each person."""
        area = body_area(boxes)[:, None]
        return _over_visible(1 - joint_similarity(points, truth[..., :2], area, self.sigmas), truth, weight)


def _distribution(distances: Tensor, cells: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """Returns the DFL: cross entropy of the two bins next to each true distance (P, 4), strides, by nearness."""
    bins = distances.shape[1] // 4
    centers, strides = cells[:, :2] + cells[:, 2:] / 2, cells[:, 2:]
    wanted = torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1) / strides
    wanted = wanted.clamp(0, bins - 1 - 0.01)
    below = wanted.long()
    to_above = wanted - below
    said = distances.reshape(-1, 4, bins).log_softmax(dim=2)  # (P, 4, bins)
    low, high = (said.gather(2, bin_.unsqueeze(2))[..., 0] for bin_ in (below, below + 1))
    return -(((1 - to_above) * low + to_above * high).mean(dim=1) * weight).sum()


def _confidence(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Returns the focal loss (alpha 0.25, gamma 2, https://arxiv.org/abs/1708.02002) of (P, J) logits."""
    visible = (truth[..., 2] > 0).to(logits.dtype)
    plain = F.binary_cross_entropy_with_logits(logits, visible, reduction="none")
    balance = 0.25 * visible + 0.75 * (1 - visible)
    each = plain * balance * (logits.sigmoid() - visible).square()
    return (each.mean(dim=1) * weight).sum()


def _distance(points: Tensor, truth: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """Returns the smooth L1 loss of (P, J, 2) points relative to the body size, quadratic below 0.05."""
    size = body_area(boxes).sqrt().clamp(min=1.0)[:, None, None]
    apart = F.smooth_l1_loss(points / size, truth[..., :2] / size, reduction="none", beta=0.05).sum(dim=2)
    return _over_visible(apart, truth, weight)


def _over_visible(values: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Returns the weighted sum over people of the mean of (P, J) values over the annotated joints."""
    visible = (truth[..., 2] > 0).to(values.dtype)  # (P, J)
    return ((values * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1) * weight).sum()


def set_priors(model: nn.Module, probability: float = 0.01) -> None:
    """Sets the biases of untrained score heads so that all scores start near ``probability``.

    Training then does not begin by lowering the scores of nearly all cells. This is the initialisation of RetinaNet
    (https://arxiv.org/abs/1708.02002); super-gradients does the same.
    """
    for name, module in model.named_modules():
        if name.endswith("cls_pred") and isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.constant_(module.bias, -torch.log(torch.tensor((1 - probability) / probability)).item())
