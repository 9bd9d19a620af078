"""KeypointDecode_TRT: the parameters and the launch of its kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..gpu.kernels import Kernel, packaged_source
from .contract import KEYPOINT_NAME, check_heatmaps
from .operator import Operator, Shapes

BLOCK_THREADS = 512  # kKeypointThreads of the kernel


class KernelParams(ctypes.Structure):
    """Parameters of the kernel; the fields are those of KeypointDecodeParams in keypoint_decode_kernel.cuh."""

    _fields_ = (
        ("heatmaps", ctypes.c_void_p),
        ("boxes", ctypes.c_void_p),
        ("joints", ctypes.c_void_p),
        ("joint_count", ctypes.c_int),
        ("size", ctypes.c_int),
    )


def kernel_source() -> Path:
    return packaged_source("keypoint_decode/keypoint_decode_kernel.cuh")


class KeypointDecode(Operator):
    """KeypointDecode_TRT."""

    name = KEYPOINT_NAME
    outputs = ("FLOAT",)

    def __init__(self, kernel: Kernel, _values: Mapping[str, float]) -> None:
        self.kernel, self.values = kernel, {}

    def check(self, shapes: Shapes) -> None:
        check_heatmaps(shapes)

    def output_shapes(self, inputs: Any, constant: Callable[[int], Any]) -> list[list[Any]]:
        return [[inputs[0][0], inputs[0][1], constant(3)]]

    def launch(self, shapes: Shapes, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        rows, joints, size, _ = shapes[0]
        params = KernelParams(*inputs, *outputs, joints, size)
        if rows and joints:  # CUDA rejects an empty grid
            self.kernel.launch((joints, rows), BLOCK_THREADS, params, stream)
