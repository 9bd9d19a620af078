"""Task-aligned assignment, by hand on a row of cells."""

import pytest
import torch

from trt_pose.training.assign import TaskAlignedAssigner
from trt_pose.training.truth import Truth

# Ten cells in a row, 10 px apart; one joint.
CENTERS = torch.stack([torch.arange(10) * 10.0 + 5, torch.full((10,), 5.0)], dim=1)
SIGMAS = torch.tensor([0.1])


def people(*rows, crowd=()):
    """Boxes on one picture; the joint in their middle."""
    boxes = torch.tensor([rows], dtype=torch.float32).reshape(1, -1, 4)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    joints = torch.cat([middle, torch.full_like(middle[..., :1], 2.0)], dim=2)[:, :, None]
    flags = torch.tensor([[index in crowd for index in range(boxes.shape[1])]])
    return Truth(boxes, joints, torch.ones(boxes.shape[:2], dtype=torch.bool), flags)


def assign(truth, scores=None, boxes=None, points=None, **options):
    batch = len(truth.boxes)
    scores = torch.full((batch, 10), 0.5) if scores is None else scores
    if boxes is None:  # every cell says a box of 20 x 10 px around itself, and its joint in the middle
        boxes = torch.cat([CENTERS - torch.tensor([10.0, 5]), CENTERS + torch.tensor([10.0, 5])], dim=1)
    points = CENTERS[None, :, None] if points is None else points
    assigner = TaskAlignedAssigner(**options)
    return assigner(scores, boxes.expand(batch, 10, 4), points.expand(batch, 10, 1, 2), CENTERS, truth, SIGMAS)


def test_only_cells_inside_the_box_and_only_the_best():
    found = assign(people((20, 0, 50, 10)))
    assert found.positive[0].nonzero()[:, 0].tolist() == [2, 3, 4]
    assert found.scores[0].argmax() == 3  # its box and joint fit best
    found = assign(people((20, 0, 50, 10)), cells=1)
    assert found.positive[0].nonzero()[:, 0].tolist() == [3]


def test_the_best_cell_learns_its_fit_the_others_less():
    found = assign(people((20, 0, 50, 10)), with_pose=False)
    fit = 2 / 3  # 20 of 30 px
    assert found.scores[0, 3].item() == pytest.approx(fit)
    # Cells 2 and 4: 15 px shared of 35; their suiting is so much less, to the sixth power.
    assert found.scores[0, 2].item() == pytest.approx((15 / 35 / fit) ** 6 * fit, rel=1e-4)
    with_pose = assign(people((20, 0, 50, 10)))
    assert with_pose.scores[0, 3].item() == pytest.approx(fit)  # the joint is where it should be
    assert with_pose.scores[0, 2] < found.scores[0, 2]


def test_scores_count_once_fit_six_times():
    """A cell that says twice the score wins over one that fits a little better, not over one that fits much better."""
    scores = torch.full((1, 10), 0.2)
    scores[0, 4] = 0.4
    close = torch.tensor([20.0, 0, 49, 10]), torch.tensor([20.0, 0, 48, 10])
    far = torch.tensor([20.0, 0, 49, 10]), torch.tensor([20.0, 0, 40, 10])
    for (better, worse), winner in ((close, 4), (far, 3)):
        boxes = torch.zeros(10, 4)
        boxes[3], boxes[4] = better, worse
        found = assign(people((20, 0, 50, 10)), scores, boxes, with_pose=False)
        assert found.scores[0].argmax() == winner


def test_a_contested_cell_goes_to_the_one_it_fits_best():
    found = assign(people((0, 0, 60, 10), (25, 0, 45, 10)))
    assert found.person[0, 3] == 1
    assert found.person[0, 0] == 0
    assert found.positive[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    # Nobody is given a cell that another chose and they did not: one cell each, and both keep theirs.
    found = assign(people((0, 0, 60, 10), (25, 0, 45, 10)), cells=1)
    assert found.positive.sum() == 2


def test_crowds_are_neither_learnt_nor_held_against_anybody():
    found = assign(people((0, 0, 40, 10), (30, 0, 90, 10), crowd=(1,)))
    assert found.positive[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert found.ignored[0].nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert found.scores[0, 4:].sum() == 0


def test_people_without_joints_are_learnt_by_their_boxes():
    truth = people((20, 0, 50, 10))
    truth.joints[..., 2] = 0
    found = assign(truth)
    assert found.scores[0, 3].item() == pytest.approx(2 / 3)


def test_padding_and_pictures_of_nobody():
    first = people((20, 0, 50, 10), (0, 0, 0, 0))
    truth = Truth(first.boxes, first.joints, torch.tensor([[True, False]]), first.crowd)
    assert assign(truth).positive[0].nonzero()[:, 0].tolist() == [2, 3, 4]
    nobody = Truth(torch.zeros(2, 0, 4), torch.zeros(2, 0, 1, 3), *(torch.zeros(2, 0, dtype=torch.bool),) * 2)
    found = assign(nobody)
    assert not found.positive.any()
    assert found.scores.shape == (2, 10)


def test_untrained_networks_learn_too():
    """Everything fits badly and scores nothing: still the best of it is to learn its own fit."""
    found = assign(people((20, 0, 50, 10)), scores=torch.full((1, 10), 1e-3), points=CENTERS[None, :, None] + 8)
    assert found.scores[0].argmax() == 2
    assert found.scores.max().item() == pytest.approx(2e-3, rel=0.1)
    none = assign(people((20, 0, 50, 10)), boxes=torch.zeros(10, 4))
    assert none.positive.any()
    assert torch.isfinite(none.scores).all()
