"""The kernel that decodes the heatmaps of Keypoint R-CNN: g++'s build of it, a NumPy reference and torchvision."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from trt_pose.operators.keypoint_decode import KernelParams

from ..kernel_on_cpu import compile_cpp

FOLDER = Path(__file__).parents[2] / "plugins" / "keypoint_decode"
F = np.float32


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    """The kernel as a function of heatmaps (R, K, S, S) and boxes (R, 4), which returns joints (R, K, 3)."""
    path = tmp_path_factory.mktemp("kernel") / "keypoint_decode.so"
    compile_cpp("-O2", "-fPIC", "-shared", "-o", path, FOLDER / "cpu" / "keypoint_decode_cpu.cpp")
    library = ctypes.CDLL(str(path))

    def run(heatmaps, boxes, seed=0):
        heatmaps, boxes = np.ascontiguousarray(heatmaps, F), np.ascontiguousarray(boxes, F)
        joints = np.full((*heatmaps.shape[:2], 3), -7, F)
        pointers = (array.ctypes.data for array in (heatmaps, boxes, joints))
        params = KernelParams(*pointers, heatmaps.shape[1], heatmaps.shape[2])
        library.keypoint_decode_cpu(ctypes.byref(params), len(boxes), seed)
        return joints

    return run


def cubic(count, size):
    """Four neighbours of each place, (count, 4), and their weights, each operation rounded to float32."""
    a, one = F(-0.75), F(1)
    at = (np.arange(count).astype(F) + F(0.5)) * (F(size) / F(count)) - F(0.5)
    below = np.floor(at)
    t = at - below

    def near(x):
        return ((a + F(2)) * x - (a + F(3))) * x * x + one

    def far(x):
        return ((a * x - F(5) * a) * x + F(8) * a) * x - F(4) * a

    weights = np.stack([far(t + one), near(t), near(one - t), far(F(2) - t)], axis=1)
    places = below.astype(int)[:, None] - 1 + np.arange(4)
    return places.clip(0, size - 1), weights


def mix(values, weights):
    """The weighted sum of four arrays, from the first to the last."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def enlarge(heatmap, rows, columns):
    """A heatmap (S, S) at another size: downwards, then across."""
    places, weights = cubic(rows, len(heatmap))
    tall = mix([heatmap[places[:, i]] for i in range(4)], [weights[:, i, None] for i in range(4)])
    places, weights = cubic(columns, len(heatmap))
    return mix([tall[:, places[:, i]] for i in range(4)], [weights[None, :, i] for i in range(4)])


def by_numpy(heatmaps, boxes):
    joints = np.zeros((*heatmaps.shape[:2], 3), F)
    for row, box in enumerate(boxes.astype(F)):
        width, height = (max(side, F(1)) for side in (box[2] - box[0], box[3] - box[1]))
        columns, rows = int(np.ceil(width)), int(np.ceil(height))
        for joint, heatmap in enumerate(heatmaps[row].astype(F)):
            wide = enlarge(heatmap, rows, columns)
            y, x = np.unravel_index(np.argmax(wide), wide.shape)  # of equal values the first
            joints[row, joint] = (
                (F(x) + F(0.5)) * (width / F(columns)) + box[0],
                (F(y) + F(0.5)) * (height / F(rows)) + box[1],
                wide[y, x],
            )
    return joints


BOXES = {
    "many sizes": [[10, 20, 110.5, 230.25], [0, 0, 33.3, 41.7], [300, 100, 460, 420], [5, 5, 61, 61]],
    "small": [[3, 3, 3.2, 3.9], [1, 2, 1, 2], [0, 0, 1.5, 300], [7, 7, 210, 8]],
    "wider than a block": [[-20, -10, 260.75, 40], [0, 0, 128, 20], [0, 0, 129, 20]],
}


@pytest.fixture(scope="module")
def heatmaps():
    """Bumps on noise, as the network gives them: (4, 3, 56, 56)."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:56, :56]
    maps = rng.normal(0, 0.3, (4, 3, 56, 56))
    for row in range(4):
        for joint in range(3):
            at = rng.uniform(0, 56, 2)
            maps[row, joint] += 8 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 12)
    return maps.astype(F)


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_the_kernel_and_numpy_agree_bit_for_bit(decode, heatmaps, boxes):
    boxes = np.array(boxes, F)
    want = by_numpy(heatmaps[: len(boxes)], boxes)
    for seed in (0, 1):
        np.testing.assert_array_equal(decode(heatmaps[: len(boxes)], boxes, seed), want)


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_torchvision_finds_the_same_joints(decode, heatmaps, boxes):
    heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    boxes = np.array(boxes, F)
    maps = heatmaps[: len(boxes)]
    places, scores = heads.heatmaps_to_keypoints(torch.from_numpy(maps), torch.from_numpy(boxes))
    found = decode(maps, boxes)
    np.testing.assert_allclose(found[..., :2], places.numpy()[..., :2], atol=1e-3)
    np.testing.assert_allclose(found[..., 2], scores.numpy(), atol=1e-5)


def test_equal_values_give_the_first_place(decode):
    flat = np.zeros((1, 2, 56, 56), F)
    flat[0, 1] = -3
    found = decode(flat, np.array([[10, 20, 66, 76]], F))
    np.testing.assert_allclose(found[0, :, :2], [[10.5, 20.5]] * 2)
    np.testing.assert_allclose(found[0, :, 2], [0, -3], atol=1e-6)


def test_what_is_no_number_is_never_found(decode, heatmaps):
    maps = heatmaps[:1].copy()
    maps[0, 0, 0, 0] = np.nan
    maps[0, 1] = np.nan
    found = decode(maps, np.array([[0, 0, 56, 56]], F))
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1, 2])
    assert found[0, 1, :2].tolist() == [0.5, 0.5]
    wild = decode(heatmaps[:2], np.array([[np.nan, 0, 5, 5], [0, 0, -4, -np.inf]], F))
    assert np.isfinite(wild[1]).all()
    assert np.isfinite(wild[0, :, 1:]).all()


def test_a_smaller_heatmap(decode):
    rng = np.random.default_rng(0)
    maps, boxes = rng.normal(0, 1, (2, 5, 28, 28)).astype(F), np.array([[0, 0, 50, 70], [2, 3, 20, 30]], F)
    np.testing.assert_array_equal(decode(maps, boxes), by_numpy(maps, boxes))


def test_the_file_compiles_by_nvrtc():
    """NVRTC, which compiles it for the plugin in Python, needs no GPU."""
    pytest.importorskip("cuda.core")
    from trt_pose.gpu.kernels import compile_kernel

    assert len(compile_kernel(FOLDER / "keypoint_decode_kernel.cuh", "sm_86").code) > 1000
