"""The loss: parts by hand and against torchvision, gradients, no people, and that it can be driven to nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import ops

from trt_pose.export.decode import DecodePoses
from trt_pose.skeleton import COCO
from trt_pose.training import loss as parts
from trt_pose.training.assign import Assignment, TaskAlignedAssigner
from trt_pose.training.loss import PARTS, LossWeights, PoseLoss
from trt_pose.training.truth import People, Truth

SIGMAS = torch.tensor(COCO.sigmas)


def make_loss(**options):
    return PoseLoss(DecodePoses(17, (8, 16, 32), 64, 96), SIGMAS, **options)


def heads(loss, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    count = loss.decode.num_anchors
    return tuple(torch.randn(batch, channels, count, generator=generator).requires_grad_() for channels in (18, 68, 34))


def truth(rng, *counts):
    people = []
    for count in counts:
        corner = rng.uniform(0, 40, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 24, (count, 2))], axis=1)
        points = corner[:, None] + rng.uniform(0, 20, (count, 17, 2))
        joints = np.concatenate([points, rng.integers(0, 3, (count, 17, 1))], axis=2)
        people.append(People(boxes.astype(np.float32), joints.astype(np.float32), np.zeros(count, bool)))
    return Truth.of(people)


def test_parts_are_weighted_and_finite(rng):
    people = truth(rng, 2, 1)
    loss = make_loss(weights=LossWeights(distance=3.0))
    double = make_loss(weights=LossWeights(2.0, 5.0, 0.02, 68.0, 2.0, 6.0))
    given = heads(loss)
    first, second = loss(given, people), double(given, people)
    assert tuple(first) == PARTS
    for name in PARTS:
        assert first[name].item() > 0
        torch.testing.assert_close(second[name], 2 * first[name])
    sum(first.values()).backward()
    assert all(torch.isfinite(head.grad).all() for head in given)
    assert all(head.grad.abs().sum() > 0 for head in given)


@pytest.mark.parametrize("head", [0, 1, 2], ids=["logits", "distances", "offsets"])
def test_the_gradient_is_the_slope(rng, head):
    """Finite differences at the steepest places of each head, with the assignment held."""
    people, held = truth(rng, 2, 1), []

    def hold(*arguments):  # of what random heads say nothing fits: score it as if it did
        if not held:
            found = TaskAlignedAssigner()(*arguments)
            held.append(dataclasses.replace(found, scores=found.positive * 0.7))
        return held[0]

    loss = make_loss(weights=LossWeights(distribution=100.0, joints=3.0, distance=3.0), assigner=hold)
    given = list(heads(loss))
    sum(loss(tuple(given), people).values()).backward()
    gradient = given[head].grad.flatten()
    for place in gradient.abs().topk(3).indices:
        step = torch.zeros_like(gradient)
        step[place] = 1e-2
        moved = []
        for sign in (1, -1):
            other = [item.detach() for item in given]
            other[head] = other[head] + sign * step.reshape(other[head].shape)
            moved.append(sum(loss(tuple(other), people).values()).item())
        assert (moved[0] - moved[1]) / 2e-2 == pytest.approx(gradient[place].item(), rel=0.1)


def test_nobody_in_any_picture():
    loss = make_loss()
    given = heads(loss)
    found = loss(given, Truth(torch.zeros(2, 0, 4), torch.zeros(2, 0, 17, 3), *(torch.zeros(2, 0).bool(),) * 2))
    assert found["score"].item() > 0
    assert [found[name].item() for name in PARTS[1:]] == [0.0] * 5
    sum(found.values()).backward()  # still a graph


def test_distribution_by_hand():
    """A true distance of 2.25 strides: three quarters of bin 2, a quarter of bin 3."""
    cells = torch.tensor([[0.0, 0, 8]])
    boxes = torch.tensor([[4.0, 4, 4, 4]]) + torch.tensor([[-18.0, -18, 18, 18]])
    distances = torch.randn(1, 68, generator=torch.Generator().manual_seed(0))
    said = distances.reshape(4, 17).log_softmax(dim=1)
    expected = -(0.75 * said[:, 2] + 0.25 * said[:, 3]).mean()
    found = parts._distribution(distances, cells, boxes, torch.ones(1))
    torch.testing.assert_close(found, expected)
    # A box that reaches farther than the last bin is asked for the last bin, not for one that is not there.
    assert torch.isfinite(parts._distribution(distances, cells, boxes * 100, torch.ones(1)))


def test_focal_losses_are_torchvisions(rng):
    logits = torch.tensor(rng.normal(0, 2, (6, 17)), dtype=torch.float32)
    joints = torch.cat([torch.zeros(6, 17, 2), torch.tensor(rng.integers(0, 3, (6, 17, 1)))], dim=2).float()
    expected = ops.sigmoid_focal_loss(logits, (joints[..., 2] > 0).float(), alpha=0.25, gamma=2.0).mean(dim=1)
    torch.testing.assert_close(parts._confidence(logits, joints, torch.ones(6)), expected.sum())
    torch.testing.assert_close(parts._confidence(logits, joints, torch.full((6,), 0.5)), expected.sum() / 2)


@pytest.mark.parametrize("kind", ["focal", "varifocal", "bce"])
def test_classifications_by_hand(kind):
    logits, wanted = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0.8, 0.0, 0.0]])
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    found = Assignment(wanted > 0, nobody, torch.zeros(1, 3, dtype=torch.long), wanted)
    said = torch.sigmoid(logits)
    plain = F.binary_cross_entropy(said, wanted, reduction="none")
    weight = {"focal": (said - wanted) ** 2, "varifocal": torch.tensor([[0.8, 0, 0]]) + 0.75 * said**2 * (wanted == 0)}
    expected = (plain * weight.get(kind, 1.0)).sum()
    torch.testing.assert_close(make_loss(classification=kind)._score(logits, found), expected)


def test_a_perfect_network_loses_next_to_nothing(rng):
    """Heads made by hand for one person: what is left is DFL's entropy between two bins."""
    loss = make_loss(assigner=TaskAlignedAssigner(cells=1000))  # all of them can
    cells = loss.decode.cells
    box = torch.tensor([20.0, 12, 60, 52])
    joints = torch.tensor(np.concatenate([rng.uniform(20, 50, (17, 2)), np.full((17, 1), 2.0)], axis=1)).float()
    centers, strides = cells[:, :2] + cells[:, 2:] / 2, cells[:, 2:]
    wanted = (torch.cat([centers - box[:2], box[2:] - centers], dim=1) / strides).clamp(0, 15.99)
    low = wanted.long()
    share = torch.zeros(len(cells), 4, 17)
    share.scatter_(2, low[..., None], (1 - (wanted - low))[..., None])
    share.scatter_(2, low[..., None] + 1, (wanted - low)[..., None])
    distances = share.clamp(min=1e-12).log().reshape(1, len(cells), 68).transpose(1, 2)
    offsets = ((joints[:, :2] - cells[:, None, :2]) / strides[:, None]).reshape(1, len(cells), 34).transpose(1, 2)
    inside = (wanted > 0).all(dim=1) & (wanted < 15.9).all(dim=1)  # no cell is in the box and out of the bins
    logits = torch.full((1, 18, len(cells)), 12.0)
    logits[0, 0, ~inside] = -12.0
    people = Truth.of([People(box.numpy()[None], joints.numpy()[None], np.zeros(1, bool))])
    found = loss((logits, distances, offsets), people)
    assert found["box"].item() < 1e-3
    assert found["joints"].item() < 1e-3
    assert found["confidence"].item() < 1e-3
    assert found["score"].item() < 1e-2


def test_a_joint_far_away_is_felt_by_distance_alone():
    """OKS has no gradient left ten sigmas away; the plain distance has."""
    area = torch.tensor([[0.0, 0, 40, 100]])
    joints = torch.zeros(1, 17, 3)
    joints[..., 2] = 2.0
    points = torch.full((1, 17, 2), 30.0, requires_grad=True)
    make_loss()._joints(points, joints, area, torch.ones(1)).backward()
    assert points.grad[0, 1].abs().max() < 1e-9  # an eye
    points.grad = None
    parts._distance(points, joints, area, torch.ones(1)).backward()
    assert points.grad[0, 1].abs().max() > 1e-4


def test_crowds_and_people_without_joints(rng):
    """What is scored in a crowd costs nothing; a person without joints is learnt by its box."""
    people = truth(rng, 1)
    people.joints[..., 2] = 0
    loss = make_loss()
    given = heads(loss, batch=1)
    found = loss(given, people)
    assert found["box"].item() > 0
    assert found["joints"].item() == 0
    crowd = Truth(torch.tensor([[[0.0, 0, 96, 64]]]), people.joints, people.present, torch.tensor([[True]]))
    assert [loss(given, crowd)[name].item() for name in PARTS] == [0.0] * 6
