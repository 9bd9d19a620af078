"""IoU, CIoU and OKS against torchvision, against NumPy loops and by hand."""

import math

import numpy as np
import pytest
import torch
from torchvision import ops

from trt_pose.skeleton import COCO
from trt_pose.training.similarity import box_area, box_iou, complete_iou, joint_similarity, pose_similarity


def boxes(rng, count):
    corner = rng.uniform(0, 100, (count, 2))
    return torch.tensor(np.concatenate([corner, corner + rng.uniform(1, 80, (count, 2))], axis=1), dtype=torch.float32)


def test_iou_is_torchvisions(rng):
    first, second = boxes(rng, 40), boxes(rng, 30)
    torch.testing.assert_close(box_iou(first[:, None], second[None]), ops.box_iou(first, second), atol=1e-5, rtol=0)
    torch.testing.assert_close(box_area(first), ops.box_area(first))


def test_complete_iou_and_its_gradient_are_torchvisions(rng):
    second = boxes(rng, 50)
    ours, theirs = (boxes(np.random.default_rng(1), 50).requires_grad_() for _ in range(2))
    loss = 1 - complete_iou(ours, second)
    expected = ops.complete_box_iou_loss(theirs, second)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)


def test_iou_by_hand():
    one, half, away = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    assert box_iou(one, half).item() == pytest.approx(1 / 3)
    assert box_iou(one, away).item() == 0
    assert complete_iou(one, one).item() == pytest.approx(1)
    # Centres (5, 5) and (25, 25) are 800 apart, the box around both is 30 by 30.
    assert complete_iou(one, away).item() == pytest.approx(-800 / 1800)
    upside_down = torch.tensor([10.0, 10, 0, 0])
    assert box_iou(upside_down, one).item() == 0
    assert box_area(upside_down).item() == 0


def test_a_joint_two_sigmas_away():
    """At a distance of 2 sigma times the body's scale, e to the minus a half: COCO's k is 2 sigma."""
    area, sigma = torch.tensor(2500.0), 0.05
    away = torch.tensor([2 * sigma * 50.0, 0.0])
    assert joint_similarity(away, torch.zeros(2), area, sigma).item() == pytest.approx(math.exp(-0.5))


def test_pose_similarity_is_oks(rng):
    """Equal to a loop over people, candidates and joints; joints nobody annotated count for nothing."""
    points = rng.uniform(0, 100, (2, 5, 17, 2)).astype(np.float32)
    joints = np.concatenate([rng.uniform(0, 100, (2, 3, 17, 2)), rng.integers(0, 3, (2, 3, 17, 1))], axis=3)
    joints[1, 2, :, 2] = 0
    area = rng.uniform(500, 5000, (2, 3))
    found = pose_similarity(*(torch.tensor(x, dtype=torch.float32) for x in (points, joints, area, COCO.sigmas)))
    for image in range(2):
        for person in range(3):
            for candidate in range(5):
                values = [
                    math.exp(
                        -((points[image, candidate, j] - joints[image, person, j, :2]) ** 2).sum()
                        / (8 * COCO.sigmas[j] ** 2 * area[image, person])
                    )
                    for j in range(17)
                    if joints[image, person, j, 2] > 0
                ]
                expected = sum(values) / len(values) if values else 0.0
                assert found[image, person, candidate].item() == pytest.approx(expected, abs=1e-5)
