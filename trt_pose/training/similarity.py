"""Similarity of boxes and poses: IoU, CIoU and OKS of broadcastable tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..skeleton import BODY_SHARE

_TINY = 1e-9


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU (...) of xyxy boxes (..., 4)."""
    overlap = _sides(torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:]))
    shared = overlap.prod(dim=-1)
    return shared / (box_area(first) + box_area(second) - shared + _TINY)


def box_area(boxes: Tensor) -> Tensor:
    """Returns the areas (...), px^2, of xyxy boxes (..., 4); 0 for boxes with a negative side."""
    return _sides(boxes[..., :2], boxes[..., 2:]).prod(dim=-1)


def body_area(boxes: Tensor) -> Tensor:
    """Returns the areas (...), px^2, of the bodies in xyxy boxes (..., 4), as used by OKS."""
    return box_area(boxes) * BODY_SHARE


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the CIoU (...) of xyxy boxes (..., 4) (https://arxiv.org/abs/1911.08287).

    It is the IoU minus a penalty for the distance of the centres and one for the difference of the aspect ratios. As in
    the paper, no gradient flows through the weight of the second penalty.
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
    """Returns ``exp(-d^2 / (2 s^2 (2 sigma)^2))`` of points (..., 2) px; ``area`` (...) px^2 is s^2.

    This is the term of one joint in OKS (https://cocodataset.org/#keypoints-eval, and pycocotools' code).
    """
    distance = (points - truth).square().sum(dim=-1)
    return torch.exp(-distance / (2 * (2 * sigma) ** 2 * (area + _TINY)))


def pose_similarity(points: Tensor, joints: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """Returns the OKS of every candidate with every person.

    Args:
        points: (B, A, J, 2) px.
        joints: (B, N, J, 3) x, y px and visibility.
        area: (B, N) body areas, px^2.
        sigmas: (J,) OKS constants.

    Returns:
        (B, N, A) in 0..1; 0 for a person without annotated joints.
    """
    visible = (joints[..., 2] > 0).to(points.dtype)  # (B, N, J)
    total = points.new_zeros(joints.shape[0], joints.shape[1], points.shape[1])
    for joint in range(joints.shape[2]):  # one joint at a time: all 17 at once need 17 times the memory
        alike = joint_similarity(
            points[:, None, :, joint], joints[:, :, None, joint, :2], area[:, :, None], sigmas[joint]
        )
        total += alike * visible[:, :, joint, None]
    return total / visible.sum(dim=2, keepdim=True).clamp(min=1)
