"""The NMS kernel, compiled for the CPU by g++, as a function of arrays."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

PLUGINS = Path(__file__).parent.parent / "plugins"
KERNEL = PLUGINS / "pose_nms"
GXX = ("g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off")


def compile_cpp(*arguments):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    done = subprocess.run([*GXX, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Params(ctypes.Structure):
    """PoseNmsParams of pose_nms_kernel.cuh."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("boxes", "scores", "joints", "count", "o_boxes", "o_scores", "o_joints", "o_classes")
        ),
        *((name, ctypes.c_int) for name in ("anchors", "classes", "joint_count", "candidates", "limit")),
        *((name, ctypes.c_float) for name in ("score_threshold", "iou_threshold")),
    )


def build(folder):
    """Compiles the kernel into ``folder``; returns the function, which without joints is DetectionNMS_TRT."""
    path = folder / "pose_nms_cpu.so"
    compile_cpp("-O2", "-fPIC", "-shared", "-o", path, KERNEL / "cpu" / "pose_nms_cpu.cpp")
    library = ctypes.CDLL(str(path))

    def run(boxes, scores, joints, score_threshold, iou_threshold, candidates, limit, threads=64, seed=0):
        batch, anchors, classes = scores.shape
        joint_count = 0 if joints is None else joints.shape[2]
        given = [np.ascontiguousarray(array, np.float32) for array in (boxes, scores, joints) if array is not None]
        # What was in the buffers before must not matter.
        outputs = [np.full((batch, 1), -7, np.int32)]
        outputs += [np.full((batch, limit, *s), np.nan, np.float32) for s in ((4,), ())]
        outputs += [
            np.full((batch, limit), -7, np.int32)
            if joints is None
            else np.full((batch, limit, joint_count, 3), np.nan, np.float32)
        ]
        inputs, results = ([array.ctypes.data for array in arrays] for arrays in (given, outputs))
        pointers = [*inputs, None, *results[:3], None, results[3]] if joints is None else [*inputs, *results, None]
        params = Params(
            *pointers, anchors, classes, joint_count, candidates, limit, score_threshold, iou_threshold
        )  # fmt: skip
        assert library.pose_nms_cpu(ctypes.byref(params), batch, threads, seed) == 0
        return tuple(outputs)

    return run
