"""The CUDA kernel, compiled for the CPU, against NumPy: every bit of every output."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from ..conftest import slow_but_first
from ..kernel_on_cpu import KERNEL, compile_cpp
from ..reference import pose_nms

NAMES = ("num_predictions", "pred_boxes", "pred_scores", "pred_joints")


def people(rng, batch, anchors, joints, spread=100.0, ties=False):
    """Random boxes that overlap a lot, scores in 0..1, joints."""
    corner = rng.uniform(0, spread, (batch, anchors, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 60, (batch, anchors, 2))], axis=2).astype(np.float32)
    scores = rng.uniform(0, 1, (batch, anchors, 1)).astype(np.float32)
    if ties:
        scores = np.round(scores * 8) / np.float32(8)
    return boxes, scores, rng.normal(size=(batch, anchors, joints, 3)).astype(np.float32)


def assert_equal(kernel, inputs, *options, **how):
    want, got = pose_nms(*inputs, *options), kernel(*inputs, *options, **how)
    for name, first, second in zip(NAMES, want, got, strict=True):
        np.testing.assert_array_equal(first, second, err_msg=f"{name} of {[x.shape for x in inputs]} {options} {how}")
    return want


@pytest.mark.parametrize("block", slow_but_first(range(10)))
def test_ten_thousand_random_cases(kernel_on_cpu, block):
    rng = np.random.default_rng(block)
    survivors = 0
    for case in range(1000):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 90)), int(rng.integers(1, 5)))
        inputs = people(rng, *shape, spread=float(rng.choice([10, 100, 400])), ties=bool(rng.integers(2)))
        options = (
            float(rng.choice([0.0, 0.1, 0.25, 0.5, 0.9])), float(rng.choice([0.0, 0.3, 0.5, 0.7, 1.0])),
            int(rng.integers(1, 100)), int(rng.integers(1, 100)),
        )  # fmt: skip
        survivors += int(assert_equal(kernel_on_cpu, inputs, *options, seed=case)[0].sum())
    assert survivors > 5_000, "the cases would test nothing"


@pytest.mark.parametrize("threads", [64, 96, 256, 1024])
@pytest.mark.parametrize(
    ("anchors", "candidates", "limit"),
    [(8400, 1000, 1000), (8400, 300, 100), (2100, 4096, 4096), (8400, 4096, 300), (5000, 4096, 4096)],
)
def test_real_sizes_whatever_the_block(kernel_on_cpu, anchors, candidates, limit, threads):
    rng = np.random.default_rng(anchors + candidates)
    inputs = people(rng, 1, anchors, 17, spread=640, ties=anchors == 5000)
    assert_equal(kernel_on_cpu, inputs, 0.0, 0.7, candidates, limit, threads=threads, seed=threads)


@pytest.mark.parametrize("anchors", [1, 2, 31, 32, 33, 63, 64, 65, 128, 129, 4095, 4096, 4097])
def test_sizes_around_the_tiles(kernel_on_cpu, anchors):
    inputs = people(np.random.default_rng(anchors), 1, anchors, 1, spread=5000)
    count = assert_equal(kernel_on_cpu, inputs, 0.0, 0.5, 4096, 4096)[0]
    assert count[0, 0] > anchors // 2


def test_the_largest_number_of_anchors(kernel_on_cpu):
    inputs = people(np.random.default_rng(0), 1, 65_536, 1, spread=3000)
    assert_equal(kernel_on_cpu, inputs, 0.3, 0.5, 4096, 4096, threads=256)
    assert_equal(kernel_on_cpu, (inputs[0], np.full_like(inputs[1], 0.5), inputs[2]), 0.3, 0.5, 100, 100, threads=256)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_batches(kernel_on_cpu, batch):
    assert_equal(kernel_on_cpu, people(np.random.default_rng(batch), batch, 200, 3), 0.3, 0.5, 100, 50)


@pytest.mark.parametrize("joints", [1, 17, 133, 256])
def test_joints_follow_their_boxes(kernel_on_cpu, joints):
    assert_equal(kernel_on_cpu, people(np.random.default_rng(joints), 2, 100, joints), 0.3, 0.5, 100, 20)


def test_nothing_above_and_everything_above(kernel_on_cpu):
    boxes, scores, joints = people(np.random.default_rng(0), 2, 300, 2)
    assert assert_equal(kernel_on_cpu, (boxes, scores, joints), 1.0, 0.5, 300, 300)[0].sum() == 0
    assert assert_equal(kernel_on_cpu, (boxes, np.ones_like(scores), joints), 0.0, 1.0, 300, 300)[0].sum() == 600


def test_exactly_at_a_threshold_is_not_above_it(kernel_on_cpu):
    boxes = np.array([[[0, 0, 2, 1], [1, 0, 3, 1], [9, 9, 10, 10]]], np.float32)  # IoU of the first two: 1/3
    scores = np.array([[[0.9], [0.8], [0.5]]], np.float32)
    joints = np.zeros((1, 3, 1, 3), np.float32)
    third = float(np.float32(1) / np.float32(3))
    assert assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.5, third, 3, 3)[0][0, 0] == 2
    assert assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.49, third - 1e-7, 3, 3)[0][0, 0] == 2


def test_equal_scores_go_by_index(kernel_on_cpu):
    boxes, _, joints = people(np.random.default_rng(1), 1, 3000, 1, spread=10_000)
    scores = np.full((1, 3000, 1), 0.5, np.float32)
    _, got, *_ = assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.1, 1.0, 700, 700)
    np.testing.assert_array_equal(got[0], boxes[0, :700])


def test_equal_boxes_leave_one(kernel_on_cpu):
    boxes = np.tile(np.array([1, 2, 30, 40], np.float32), (1, 500, 1))
    _, scores, joints = people(np.random.default_rng(2), 1, 500, 1)
    assert assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.0, 0.99, 500, 500)[0][0, 0] == 1


def test_empty_and_inverted_boxes(kernel_on_cpu):
    rng = np.random.default_rng(3)
    boxes, scores, joints = people(rng, 4, 150, 1)
    boxes[:, ::3, 2:] = boxes[:, ::3, :2]  # no area
    boxes[:, 1::3] = boxes[:, 1::3][..., [2, 3, 0, 1]]  # corners in the other order
    boxes[:, ::7, 3] = boxes[:, ::7, 1]  # no height
    assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.1, 0.4, 150, 150)


def test_not_a_number_and_infinity(kernel_on_cpu):
    rng = np.random.default_rng(4)
    boxes, scores, joints = people(rng, 8, 150, 1)
    for array in (boxes, scores, joints):
        values = array.reshape(-1)
        for value in (np.nan, np.inf, -np.inf):
            values[rng.integers(0, len(values), 60)] = value
    scores[0] = np.nan
    count, *_ = assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.1, 0.4, 150, 150)
    assert count[0, 0] == 0
    assert (count[1:] > 0).all()


def test_negative_scores_and_negative_zero(kernel_on_cpu):
    boxes, scores, joints = people(np.random.default_rng(5), 1, 200, 1)
    scores -= 0.5
    scores[0, ::5] = -0.0
    scores[0, 1::5] = np.float32(1e-45)  # the smallest positive number
    assert_equal(kernel_on_cpu, (boxes, scores, joints), 0.0, 0.5, 200, 200)


def test_the_order_in_which_threads_run_does_not_matter(kernel_on_cpu):
    inputs = people(np.random.default_rng(6), 1, 3000, 2, ties=True)
    for seed in range(20):
        assert_equal(kernel_on_cpu, inputs, 0.1, 0.5, 900, 200, threads=256, seed=seed)


@pytest.mark.slow
def test_no_data_races(tmp_path):
    assert "equals the reference" in run_under_thread_sanitizer(KERNEL / "cpu", tmp_path)


@pytest.mark.slow
def test_a_missing_barrier_would_be_found(tmp_path):
    """The sanitizer's run can fail: without the barrier after a step of the sort it does."""
    copy = tmp_path / "pose_nms"
    shutil.copytree(KERNEL, copy)
    kernel = copy / "pose_nms_kernel.cuh"
    barrier = "__syncthreads();  // other warps read the keys next"
    assert barrier in kernel.read_text(encoding="utf-8")
    kernel.write_text(kernel.read_text(encoding="utf-8").replace(barrier, "// " + barrier))
    assert "data race" in run_under_thread_sanitizer(copy / "cpu", tmp_path)


def run_under_thread_sanitizer(sources, folder):
    program = folder / "pose_nms_threads"
    compile_cpp("-O1", "-g", "-fsanitize=thread", "-pthread", "-o", program, sources / "pose_nms_threads.cpp")
    options = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}  # what runs on after a race may never end
    done = subprocess.run([program], capture_output=True, text=True, env=options, timeout=300)
    return done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "compute_120"])
def test_nvcc_compiles_it(tmp_path, architecture):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    kind = "-ptx" if architecture.startswith("compute") else "-cubin"
    source = tmp_path / "kernel.cu"
    source.write_text(f'#include "{KERNEL / "pose_nms_kernel.cuh"}"\n')
    command = ["nvcc", "-std=c++17", kind, f"-arch={architecture}", "-Werror", "all-warnings", "-o", tmp_path / "out"]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
