"""PoseNMS_TRT and DetectionNMS_TRT: the parameters and the launch of their kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..gpu.kernels import Kernel, packaged_source
from .contract import DETECTION_NAME, NAME, NmsFields, check_shapes
from .operator import Operator, Shapes

BLOCK_THREADS = 1024  # kBlockThreads of the kernel


class KernelParams(ctypes.Structure):
    """Parameters of the kernel; the fields are those of PoseNmsParams in pose_nms_kernel.cuh."""

    _fields_ = (
        ("boxes", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("joints", ctypes.c_void_p),
        ("num_predictions", ctypes.c_void_p),
        ("pred_boxes", ctypes.c_void_p),
        ("pred_scores", ctypes.c_void_p),
        ("pred_joints", ctypes.c_void_p),
        ("pred_classes", ctypes.c_void_p),
        ("anchors", ctypes.c_int),
        ("classes", ctypes.c_int),
        ("joint_count", ctypes.c_int),
        ("candidates", ctypes.c_int),
        ("limit", ctypes.c_int),
        ("score_threshold", ctypes.c_float),
        ("iou_threshold", ctypes.c_float),
    )


def kernel_source() -> Path:
    return packaged_source("pose_nms/pose_nms_kernel.cuh")


class PoseNms(Operator):
    """PoseNMS_TRT. Raises UsageError when an attribute is missing or out of range."""

    name = NAME
    attributes = {  # noqa: RUF012 - declared by the base class
        "score_threshold": ("FLOAT32", np.float32),
        "iou_threshold": ("FLOAT32", np.float32),
        "max_output_boxes": ("INT32", np.int32),
        "num_pre_nms_predictions": ("INT32", np.int32),
    }
    outputs = ("INT32", "FLOAT", "FLOAT", "FLOAT")

    def __init__(self, kernel: Kernel, values: Mapping[str, float]) -> None:
        self.kernel, self.fields = kernel, NmsFields.from_values(values)
        self.values = asdict(self.fields)

    def check(self, shapes: Shapes) -> None:
        check_shapes(shapes)

    def output_shapes(self, inputs: Any, constant: Callable[[int], Any]) -> list[list[Any]]:
        return [*self._common_shapes(inputs, constant), [*self._rows(inputs, constant), inputs[2][2], constant(3)]]

    def launch(self, shapes: Shapes, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        self._launch([*inputs, *outputs, None], shapes[1], shapes[2][2], stream)

    def _rows(self, inputs: Any, constant: Callable[[int], Any]) -> list[Any]:
        return [inputs[0][0], constant(self.fields.max_output_boxes)]

    def _common_shapes(self, inputs: Any, constant: Callable[[int], Any]) -> list[list[Any]]:
        rows = self._rows(inputs, constant)
        return [[rows[0], constant(1)], [*rows, constant(4)], rows]

    def _launch(self, pointers: Sequence[int | None], scores: Sequence[int], joints: int, stream: int) -> None:
        batch, anchors, classes = scores
        params = KernelParams(
            *pointers, anchors, classes, joints,
            min(self.fields.num_pre_nms_predictions, anchors * classes), self.fields.max_output_boxes,
            self.fields.score_threshold, self.fields.iou_threshold,
        )  # fmt: skip
        if batch:  # CUDA rejects an empty grid
            self.kernel.launch((batch, 1), BLOCK_THREADS, params, stream)


class DetectionNms(PoseNms):
    """DetectionNMS_TRT. Raises UsageError when an attribute is missing or out of range."""

    name = DETECTION_NAME
    outputs = ("INT32", "FLOAT", "FLOAT", "INT32")

    def output_shapes(self, inputs: Any, constant: Callable[[int], Any]) -> list[list[Any]]:
        return [*self._common_shapes(inputs, constant), self._rows(inputs, constant)]

    def launch(self, shapes: Shapes, inputs: Sequence[int], outputs: Sequence[int], stream: int) -> None:
        self._launch([*inputs, None, *outputs[:3], None, outputs[3]], shapes[1], 0, stream)
