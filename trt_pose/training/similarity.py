"""How alike boxes and poses are: IoU, CIoU, OKS, on tensors that broadcast."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..skeleton import BODY_SHARE

_TINY = 1e-9


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of xyxy boxes (..., 4)."""
    overlap = _sides(torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:]))
    shared = overlap.prod(dim=-1)
    return shared / (box_area(first) + box_area(second) - shared + _TINY)


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of xyxy boxes (..., 4), px^2; 0 for what is no box."""
    return _sides(boxes[..., :2], boxes[..., 2:]).prod(dim=-1)


def body_area(boxes: Tensor) -> Tensor:
    """Areas (...) px^2 of the bodies in xyxy boxes (..., 4), which OKS is measured by."""
    return box_area(boxes) * BODY_SHARE


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """CIoU: IoU less the distance of the centres and the difference of the shapes (https://arxiv.org/abs/1911.08287).

    The weight of the second is a constant to the gradient, as the paper has it.
    """
    iou = box_iou(first, second)
    around = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    distance = apart.square().sum(dim=-1) / (around.square().sum(dim=-1) + _TINY)
    shape = (4 / math.pi**2) * (_slope(second) - _slope(first)).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + _TINY)
    return iou - distance - weight * shape


def _slope(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes[..., :2], boxes[..., 2:]).unbind(dim=-1)
    return torch.atan(width / (height + _TINY))


def _sides(start: Tensor, end: Tensor) -> Tensor:
    return (end - start).clamp(min=0)


def joint_similarity(points: Tensor, truth: Tensor, area: Tensor, sigma: Tensor | float) -> Tensor:
    """``exp(-d^2 / (2 s^2 (2 sigma)^2))`` of points (..., 2) px; ``area`` (...) px^2 is s^2.

    The term of one joint in OKS (https://cocodataset.org/#keypoints-eval, and pycocotools' code).
    """
    distance = (points - truth).square().sum(dim=-1)
    return torch.exp(-distance / (2 * (2 * sigma) ** 2 * (area + _TINY)))


def pose_similarity(points: Tensor, joints: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """OKS of every candidate with every person.

    Args:
        points: (B, A, J, 2) px. joints: (B, N, J, 3) px and visibility. area: (B, N) px^2. sigmas: (J,).

    Returns:
        (B, N, A) in 0..1; 0 for a person of whom no joint is annotated.
    """
    visible = (joints[..., 2] > 0).to(points.dtype)  # (B, N, J)
    total = points.new_zeros(joints.shape[0], joints.shape[1], points.shape[1])
    for joint in range(joints.shape[2]):  # joint by joint: all at once is 17 times the memory
        alike = joint_similarity(
            points[:, None, :, joint], joints[:, :, None, joint, :2], area[:, :, None], sigmas[joint]
        )
        total += alike * visible[:, :, joint, None]
    return total / visible.sum(dim=2, keepdim=True).clamp(min=1)
