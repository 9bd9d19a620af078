"""The classes form of the kernel, DetectionNMS_TRT, on the CPU against NumPy: every bit of every output."""

import numpy as np
import pytest

from ..reference import detection_nms
from .test_pose_nms_kernel import people


def objects(rng, batch, anchors, classes, spread=100.0, ties=False):
    boxes, *_ = people(rng, batch, anchors, 1, spread)
    scores = rng.uniform(0, 1, (batch, anchors, classes)).astype(np.float32)
    return boxes, np.round(scores * 8) / np.float32(8) if ties else scores


def assert_equal(kernel, boxes, scores, *options, **how):
    want, got = detection_nms(boxes, scores, *options), kernel(boxes, scores, None, *options, **how)
    for name, first, second in zip(("count", "boxes", "scores", "classes"), want, got, strict=True):
        np.testing.assert_array_equal(first, second, err_msg=f"{name} of {scores.shape} {options} {how}")
    return want


@pytest.mark.parametrize("block", range(4))
def test_random_cases(kernel_on_cpu, block):
    rng = np.random.default_rng(100 + block)
    survivors, several = 0, 0
    for case in range(500):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 40)), int(rng.integers(1, 9)))
        inputs = objects(rng, *shape, spread=float(rng.choice([10, 100, 400])), ties=bool(rng.integers(2)))
        options = (
            float(rng.choice([0.0, 0.25, 0.5, 0.9])), float(rng.choice([0.0, 0.3, 0.5, 0.7, 1.0])),
            int(rng.integers(1, 300)), int(rng.integers(1, 100)),
        )  # fmt: skip
        _, boxes, scores, _ = assert_equal(kernel_on_cpu, *inputs, *options, seed=case)
        survivors += int((scores > 0).sum())
        several += len(boxes[scores > 0]) - len(np.unique(boxes[scores > 0], axis=0))
    assert survivors > 5_000, "the cases would test nothing"
    assert several > 1_000, "no box was kept for several classes"


@pytest.mark.parametrize("threads", [64, 1024])
@pytest.mark.parametrize(("anchors", "classes", "score"), [(8400, 80, 0.98), (8400, 80, 0.999), (300, 4096, 0.9)])
def test_real_sizes(kernel_on_cpu, anchors, classes, score, threads):
    inputs = objects(np.random.default_rng(anchors), 1, anchors, classes, spread=640)
    above = int((inputs[1] > score).sum())
    assert (above > 4096) == (score < 0.99)  # narrowed, and not
    assert_equal(kernel_on_cpu, *inputs, score, 0.65, 4096, 300, threads=threads)


def test_equal_boxes_of_different_classes_all_stay(kernel_on_cpu):
    boxes = np.tile(np.array([1, 2, 30, 40], np.float32), (1, 10, 1))
    scores = np.zeros((1, 10, 10), np.float32)
    scores[0, np.arange(10), np.arange(10)] = 0.5
    count, _, _, classes = assert_equal(kernel_on_cpu, boxes, scores, 0.1, 0.5, 100, 20)
    assert count[0, 0] == 10
    assert classes[0].tolist() == [*range(10), *[-1] * 10]


def test_equal_scores_go_by_anchor_then_class(kernel_on_cpu):
    boxes, _ = objects(np.random.default_rng(1), 1, 2000, 3, spread=10_000)
    scores = np.full((1, 2000, 3), 0.5, np.float32)
    _, got, _, classes = assert_equal(kernel_on_cpu, boxes, scores, 0.1, 1.0, 600, 600)
    np.testing.assert_array_equal(got[0], boxes[0, :200].repeat(3, axis=0))
    assert classes[0].tolist() == [0, 1, 2] * 200


def test_nothing_not_a_number_and_the_last_pair(kernel_on_cpu):
    boxes, scores = objects(np.random.default_rng(2), 2, 300, 7)
    scores[0] = np.nan
    scores[1] = 0
    scores[1, -1, -1] = 0.9
    count, got, _, classes = assert_equal(kernel_on_cpu, boxes, scores, 0.1, 0.5, 100, 5)
    assert count[:, 0].tolist() == [0, 1]
    assert classes[1, 0] == 6
    np.testing.assert_array_equal(got[1, 0], boxes[1, -1])
