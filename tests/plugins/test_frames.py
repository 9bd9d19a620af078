"""The kernels before and after the engine, on the CPU: letterbox against OpenCV, pack against NumPy, every bit."""

import ctypes
import importlib.util
import shutil
import subprocess

import numpy as np
import pytest

from trt_pose.gpu.frames import FRAME, LetterboxParams, PackParams, fill_frames, kernel_source, letterbox_params
from trt_pose.gpu.kernels import compile_kernel
from trt_pose.images.pixels import letterbox, undo_letterbox
from trt_pose.spec import InputSpec, Letterbox

from ..kernel_on_cpu import PLUGINS, compile_cpp

RUNTIME = PLUGINS / "runtime"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "frames_cpu.so"
    compile_cpp("-O2", "-fPIC", "-shared", "-o", path, RUNTIME / "cpu" / "frames_cpu.cpp")
    return ctypes.CDLL(str(path))


def address(array):
    return array.ctypes.data


def letterbox_on_cpu(kernels, images, spec, seed=0, sources=None, pitches=None):
    """The kernel, on a batch: the network input (B, 3, height, width), and the letterboxes."""
    frames, found = np.zeros(len(images), FRAME), np.full((len(images), 3, spec.height, spec.width), 7, spec.dtype)
    sources = sources or [address(image) for image in images]
    placed = fill_frames(frames, [image.shape for image in images], sources, spec, pitches)
    params = letterbox_params(address(frames), address(found), spec)
    kernels.letterbox_cpu(ctypes.byref(params), len(images), seed)
    return found, placed


POLICIES = {
    "longest_side": {},
    "center": {"resize_to": (124, 156), "padding": "center", "pad_value": 114},
    "stretch": {"resize": "stretch", "resize_to": (128, 160)},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_letterbox_is_opencvs(kernels, rng, policy, dtype):
    spec = InputSpec(**{"height": 128, "width": 160, "resize_to": (128, 160), "dtype": dtype, **POLICIES[policy]})
    sizes = [
        (128, 160),
        (256, 320),
        (300, 421),
        (77, 33),
        (1, 1),
        (1, 500),
        (500, 1),
        (1080, 1920),
        (64, 80),
        (129, 161),
    ]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    found, placed = letterbox_on_cpu(kernels, images, spec, seed=len(policy))
    for image, got, place in zip(images, found, placed, strict=True):
        want, expected = letterbox(image, spec)
        assert place == expected
        np.testing.assert_array_equal(got, want.astype(dtype), err_msg=str(image.shape))


@pytest.mark.parametrize("size", [(16, 64), (1, 1), (17, 65), (100, 31), (640, 640)])
def test_letterbox_into_inputs_that_are_no_whole_tiles(kernels, photograph, size):
    spec = InputSpec(height=size[0], width=size[1], resize_to=size)
    (found,), _ = letterbox_on_cpu(kernels, [photograph], spec)
    np.testing.assert_array_equal(found, letterbox(photograph, spec)[0])


def test_letterbox_of_a_real_photograph_and_rows_with_gaps(kernels, photograph):
    spec = InputSpec(height=320, width=320, resize_to=(320, 320))
    view = photograph[10:400, 20:300]  # rows are farther apart than they are long
    source = address(photograph) + 10 * 512 * 3 + 20 * 3
    (found,), _ = letterbox_on_cpu(kernels, [view], spec, sources=[source], pitches=[512 * 3])
    np.testing.assert_array_equal(found, letterbox(np.ascontiguousarray(view), spec)[0])


def test_floats_in_unit_range(kernels, photograph):
    spec = InputSpec(height=64, width=64, resize_to=(64, 64), dtype="float32", white=1)
    (found,), _ = letterbox_on_cpu(kernels, [photograph], spec)
    want = letterbox(photograph, spec)[0].astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def pack(kernels, counts, boxes, scores, rest, placed, threshold, seed=0):
    """The kernel: rows kept of each image, and the rows."""
    batch, limit = scores.shape
    has_joints = rest.ndim == 4
    width = 5 + (3 * rest.shape[2] if has_joints else 1)
    frames = np.zeros(batch, FRAME)
    frames["place"] = [[p.scale_x, p.scale_y, p.left, p.top] for p in placed]
    kept, rows = np.full(batch, -1, np.int32), np.full((batch * limit, width), np.nan, np.float32)
    joints, classes = (address(rest), None) if has_joints else (None, address(rest))
    params = PackParams(
        address(counts), address(boxes), address(scores), joints, classes, address(frames), address(kept),
        address(rows), batch, limit, rest.shape[2] if has_joints else 0, threshold,
    )  # fmt: skip
    kernels.pack_rows_cpu(ctypes.byref(params), seed)
    assert np.isnan(rows[kept.sum() :]).all(), "rows past the last were written"
    return kept, rows[: kept.sum()]


def by_numpy(counts, boxes, scores, rest, placed, threshold):
    kept, rows = [], []
    for image, place in enumerate(placed):
        count = int((scores[image, : counts[image, 0]] > np.float32(threshold)).sum())
        kept.append(count)
        found = undo_letterbox(boxes[image, :count].reshape(-1, 2, 2), place).reshape(-1, 4)
        if rest.ndim == 4:
            joints = rest[image, :count].copy()
            joints[..., :2] = undo_letterbox(joints[..., :2], place)
            last = joints.reshape(count, 3 * rest.shape[2])
        else:
            last = rest[image, :count, None].astype(np.float32)
        rows.append(np.concatenate([found, scores[image, :count, None], last], axis=1))
    return np.array(kept, np.int32), np.concatenate(rows)


@pytest.mark.parametrize("kind", ["poses", "objects"])
def test_packed_rows(kernels, rng, kind):
    total = 0
    for case in range(150):
        batch, limit, joint_count = int(rng.integers(1, 9)), int(rng.integers(1, 60)), int(rng.integers(1, 20))
        counts = rng.integers(0, limit + 1, (batch, 1)).astype(np.int32)
        boxes = rng.normal(300, 200, (batch, limit, 4)).astype(np.float32)
        scores = -np.sort(-rng.uniform(0, 1, (batch, limit)).astype(np.float32), axis=1)
        rest = rng.normal(300, 200, (batch, limit, joint_count, 3)).astype(np.float32)
        if kind == "objects":
            rest = rng.integers(0, 80, (batch, limit)).astype(np.int32)
        placed = [
            Letterbox(float(rng.uniform(0.1, 4)), float(rng.uniform(0.1, 4)), int(rng.integers(0, 99)), case)
            for _ in range(batch)
        ]
        threshold = float(rng.choice([0.0, 0.3, 0.9, 1.0]))
        want = by_numpy(counts, boxes, scores, rest, placed, threshold)
        got = pack(kernels, counts, boxes, scores, rest, placed, threshold, seed=case)
        for first, second in zip(want, got, strict=True):
            np.testing.assert_array_equal(first, second)
        total += len(got[1])
    assert total > 2000


def test_a_score_at_the_threshold_and_a_full_image(kernels):
    counts = np.array([[3], [0]], np.int32)
    boxes, scores = np.zeros((2, 3, 4), np.float32), np.array([[0.75, 0.5, 0.25], [0, 0, 0]], np.float32)
    joints = np.zeros((2, 3, 1, 3), np.float32)
    placed = [Letterbox(), Letterbox()]
    assert pack(kernels, counts, boxes, scores, joints, placed, 0.5)[0].tolist() == [1, 0]
    assert pack(kernels, counts, boxes, scores, joints, placed, 0.0)[0].tolist() == [3, 0]


def test_the_largest_batch(kernels, rng):
    batch = 1024
    counts = rng.integers(0, 3, (batch, 1)).astype(np.int32)
    boxes, rest = rng.normal(size=(batch, 2, 4)).astype(np.float32), rng.integers(0, 9, (batch, 2)).astype(np.int32)
    scores = np.tile(np.array([0.9, 0.4], np.float32), (batch, 1))
    placed = [Letterbox()] * batch
    for first, second in zip(
        by_numpy(counts, boxes, scores, rest, placed, 0.1),
        pack(kernels, counts, boxes, scores, rest, placed, 0.1),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


def test_python_and_cuda_agree_on_the_parameters():
    text = (RUNTIME / "include" / "trt_pose" / "frames.cuh").read_text(encoding="utf-8")
    for name, kind in (("LetterboxParams", LetterboxParams), ("PackParams", PackParams)):
        body = text[text.index(f"struct {name} {{") :].partition("};")[0]
        lines = [line.partition("//")[0].strip().rstrip(";") for line in body.splitlines()[1:]]
        words = [word.split()[-1].lstrip("*") for line in lines if line for word in line.split(",")]
        assert [word.lower() for word in words] == [name.replace("_", "") for name, _ in kind._fields_]


def test_python_and_cuda_agree_on_a_frame(tmp_path):
    header = RUNTIME / "include" / "trt_pose" / "frames.cuh"
    checks = [f'static_assert(offsetof(Frame, {name}) == {FRAME.fields[name][1]}, "{name}");' for name in FRAME.names]
    source = tmp_path / "frame.cpp"
    source.write_text(
        f'#include <cstddef>\n#include "{header}"\nusing trt_pose::Frame;\n'
        + "\n".join([*checks, f'static_assert(sizeof(Frame) == {FRAME.itemsize}, "size");'])
    )
    compile_cpp("-fsyntax-only", source)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_nvcc_compiles_them(tmp_path, architecture):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    source = tmp_path / "frames.cu"
    source.write_text(f'#include "{RUNTIME / "include" / "trt_pose" / "frames.cuh"}"\n')
    command = [
        "nvcc",
        "-DTRT_POSE_KERNELS",
        "-std=c++17",
        "-cubin",
        f"-arch={architecture}",
        "-Werror",
        "all-warnings",
        "-o",
        tmp_path / "o",
    ]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("cuda.core") is None, reason="needs cuda-core")
def test_nvrtc_compiles_both_kernels(tmp_path, monkeypatch):
    """As the runner compiles them, from the package's own copy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cubin = bytes(compile_kernel(kernel_source(), "sm_90").code)
    for name in (b"letterbox", b"pack_rows"):
        assert name in cubin
