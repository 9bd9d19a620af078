"""The loss of YOLO-NAS-Pose, as published (super-gradients, YOLO-NAS-POSE recipes).

Score: focal loss against the assigned score. Box: CIoU, and DFL on its distributions. Joints: 1 - OKS of each, and
their confidence: focal loss against whether they are annotated. Box and joints count by the assigned score.
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
    """Weights of :data:`PARTS`; those of the published recipes.

    ``distance`` is ours: the plain distance of joints, which OKS does not feel from afar: of an eye ten sigmas off it
    has no gradient left. Fine-tuning does without it.
    """

    score: float = 1.0
    box: float = 2.5
    distribution: float = 0.01
    joints: float = 34.0
    confidence: float = 1.0
    distance: float = 0.0


@dataclass(frozen=True)
class PoseLoss:
    """Loss of a batch. Call it with the raw heads of the network.

    Attributes:
        decode: of the input size. sigmas: (J,) of OKS.
        classification: of the scores: ``focal`` (published), ``varifocal`` (https://arxiv.org/abs/2008.13367), ``bce``.
    """

    decode: DecodePoses
    sigmas: Tensor
    weights: LossWeights = field(default_factory=LossWeights)
    assigner: TaskAlignedAssigner = field(default_factory=TaskAlignedAssigner)
    classification: str = "focal"

    def __call__(self, heads: Heads, truth: Truth) -> dict[str, Tensor]:
        """Weighted parts of the loss, scalars by name; their sum is the loss.

        Args:
            heads: logits (B, 1 + J, A), distances (B, 4 * bins, A), offsets (B, 2J, A); computed on in float32.
            truth: the people in the pictures, px of the network input.
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
        """1 - OKS of (P, J, 2) points, the mean over the annotated joints of each person."""
        area = body_area(boxes)[:, None]
        return _over_visible(1 - joint_similarity(points, truth[..., :2], area, self.sigmas), truth, weight)


def _distribution(distances: Tensor, cells: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """DFL: the bins left and right of each true distance (P, 4), strides, by how near they are."""
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
    """Focal loss (alpha 0.25, gamma 2, https://arxiv.org/abs/1708.02002) of (P, J) logits."""
    visible = (truth[..., 2] > 0).to(logits.dtype)
    plain = F.binary_cross_entropy_with_logits(logits, visible, reduction="none")
    balance = 0.25 * visible + 0.75 * (1 - visible)
    each = plain * balance * (logits.sigmoid() - visible).square()
    return (each.mean(dim=1) * weight).sum()


def _distance(points: Tensor, truth: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """How far (P, J, 2) points are, in body sizes; Huber's loss, quadratic below a twentieth."""
    size = body_area(boxes).sqrt().clamp(min=1.0)[:, None, None]
    apart = F.smooth_l1_loss(points / size, truth[..., :2] / size, reduction="none", beta=0.05).sum(dim=2)
    return _over_visible(apart, truth, weight)


def _over_visible(values: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The mean of (P, J) values over the annotated joints of each person, summed by the people's weights."""
    visible = (truth[..., 2] > 0).to(values.dtype)  # (P, J)
    return ((values * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1) * weight).sum()


def set_priors(model: nn.Module, probability: float = 0.01) -> None:
    """Lets untrained heads say "nobody" nearly everywhere, so that learning does not begin with unlearning that.

    (RetinaNet's initialisation, https://arxiv.org/abs/1708.02002; the reference release does the same.)
    """
    for name, module in model.named_modules():
        if name.endswith("cls_pred") and isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.constant_(module.bias, -torch.log(torch.tensor((1 - probability) / probability)).item())
