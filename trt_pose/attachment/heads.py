"""The output layouts that ``attach`` reads.

To add a head, add a member to ``HeadName``, a text of ONNX nodes and a row to :data:`HEADS`. Layout of the Ultralytics
pose models: https://docs.ultralytics.com/tasks/pose (boxes as centre and size). Names and suppression of MMDeploy's
pose detectors: configs/mmpose/pose-detection_rtmo_onnxruntime_dynamic.py of https://github.com/open-mmlab/mmdeploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ..choices import HeadName
from ..models.processing import POSE_INPUT
from ..spec import InputSpec, Normalization

Shapes = list[list[int]]
_RGB = Normalization("RGB")


# Columns are candidates: boxes as centre and size, the score, the joints.
_COLUMNS = """
  rows = Transpose <perm = [0, 2, 1]> (given)
  parts = Constant <value_ints = [2, 2, 1, {width}]> ()
  center, size, scores, flat = Split <axis = 2> (rows, parts)
  two = Constant <value_float = 2.0> ()
  half = Div (size, two)
  low = Sub (center, half)
  high = Add (center, half)
  boxes = Concat <axis = 2> (low, high)
"""
# Rows are people: box xyxy, score, class and joints.
_ROWS = """
  parts = Constant <value_ints = [4, 1, 1, {width}]> ()
  boxes, scores, kind, flat = Split <axis = 2> (given, parts)
"""
_THREE_NUMBERS = """
  layout = Constant <value_ints = [0, 0, -1, 3]> ()
  joints = Reshape (flat, layout)
"""
_TWO_NUMBERS = """
  layout = Constant <value_ints = [0, 0, -1, 2]> ()
  points = Reshape (flat, layout)
  one_behind = Constant <value_ints = [0, 0, 0, 0, 0, 0, 0, 1]> ()
  certain = Constant <value_float = 1.0> ()
  joints = Pad (points, one_behind, certain)
"""
# The number of rows may be open, and be none. A row of zeros is added, which is never kept. The rows that fill a batch
# up are repeated ones, so they are suppressed again.
_MMDEPLOY = """
  row_behind = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()
  padded = Pad (dets, row_behind)
  parts = Constant <value_ints = [4, 1]> ()
  boxes, scores = Split <axis = 2> (padded, parts)
  joints_behind = Constant <value_ints = [0, 0, 0, 0, 0, 1, 0, 0]> ()
  joints = Pad (keypoints, joints_behind)
"""
_YOLO_NAS = """
  last = Constant <value_ints = [3]> ()
  confidences = Unsqueeze (flat_confidences, last)
  joints = Concat <axis = 3> (points, confidences)
"""


# The batch format of super-gradients. Rows at and past the count hold what was suppressed.
_YOLO_NAS_BATCH = """
  rows_here = Shape <start = 1, end = 2> (flat_scores)
  first = Constant <value_int = 0> ()
  step = Constant <value_int = 1> ()
  row_count = Squeeze (rows_here)
  numbers = Range (first, row_count, step)
  counted = Less (numbers, people)
  no_score = Constant <value = float {{0}}> ()
  kept_scores = Where (counted, flat_scores, no_score)
  last = Constant <value_ints = [2]> ()
  scores = Unsqueeze (kept_scores, last)
"""


# Rows that a selection behind a file with an open number of rows takes at most.
OPEN_ROWS = 300
# Files that do not say their joints are read by their shapes alone. An output (B, 56, 8400) has 17 joints if its
# columns are candidates, and 2,798 if its rows are; no model has that many.
_MOST_JOINTS = 1000


def _row_sizes(shapes: Shapes, values: int, before: int, axis: int) -> tuple[int, int] | None:
    """Returns the numbers of rows and joints of one tensor whose ``axis`` is ``before`` + J * ``values`` long."""
    (shape,) = shapes
    if len(shape) != 3:
        return None
    joints, rest = divmod(shape[axis] - before, values)
    return (shape[3 - axis], joints) if not rest and 0 < joints <= _MOST_JOINTS else None


def _mmdeploy_sizes(shapes: Shapes) -> tuple[int, int] | None:
    dets, points = shapes
    fits = len(dets) == 3 and dets[2] == 5 and len(points) == 4 and points[3] == 3 and dets[1] == points[1]
    return (dets[1], points[2]) if fits else None


def _decoded_sizes(shapes: Shapes, values: int = 3) -> tuple[int, int] | None:
    boxes, scores, points = shapes[:3]
    anchors = boxes[1] if len(boxes) == 3 else 0
    fits = boxes[2:] == [4] and scores[1:] == [anchors, 1] and len(points) == 4
    return (anchors, points[2]) if fits and (points[1], points[3]) == (anchors, values) else None


def _yolo_nas_sizes(shapes: Shapes) -> tuple[int, int] | None:
    sizes = _decoded_sizes(shapes, 2)
    return sizes if sizes is not None and tuple(shapes[3][1:]) == sizes else None


def _yolo_nas_batch_sizes(shapes: Shapes) -> tuple[int, int] | None:
    people, boxes, scores, points = shapes
    rows = boxes[1] if len(boxes) == 3 else 0
    fits = people[1:] == [1] and boxes[2:] == [4] and scores[1:] == [rows] and len(points) == 4
    return (rows, points[2]) if fits and (points[1], points[3]) == (rows, 3) else None


@dataclass(frozen=True)
class Head:
    """One layout of outputs.

    Attributes:
        tensors: the names that ``text`` has for the output tensors.
        text: ONNX nodes that make ``boxes`` (B, A, 4) xyxy px, ``scores`` (B, A, 1) and ``joints`` (B, A, J, 3) of
            them. ``{width}`` stands for the length of the joints in a row.
        sizes: numbers of anchors and joints from the shapes of the tensors, or None when they do not fit.
        input: image policy of the toolkit.
        suppressed: whether the file has removed overlapping boxes itself.
        open_rows: whether the number of rows may be open.
        whole: names of the tensors that are whole numbers.
        values: numbers per joint: x, y and the confidence, or x and y.
    """

    tensors: tuple[str, ...]
    text: str
    sizes: Callable[[Shapes], tuple[int, int] | None]
    input: InputSpec
    suppressed: bool = False
    open_rows: bool = False
    whole: tuple[str, ...] = ()
    values: int = 3


def fitting(shapes: Shapes) -> dict[HeadName, tuple[int, int]]:
    """Returns the heads that tensors of these shapes may be the outputs of, with the numbers of anchors and joints."""
    found = {name: head.sizes(shapes) for name, head in HEADS.items() if len(head.tensors) == len(shapes)}
    fits = {name: sizes for name, sizes in found.items() if sizes is not None}
    if len(shapes) > 1:
        return fits
    # Candidates are more than the numbers of one, in every file known: (B, 56, 100) are 100 of them.
    longest = max(shapes[0][1:], default=0)
    return {name: sizes for name, sizes in fits.items() if sizes[0] == longest} or fits


_ULTRALYTICS = InputSpec(padding="center", pad_value=114, normalization=_RGB)
# Of RTMO and YOLOX-Pose: grey levels as they are, blue first.
_MMPOSE = InputSpec(pad_value=114, normalization=Normalization("BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def _ultralytics(text: str, before: int, axis: int, values: int, suppressed: bool = False) -> Head:
    joints = _THREE_NUMBERS if values == 3 else _TWO_NUMBERS
    sizes = partial(_row_sizes, values=values, before=before, axis=axis)
    return Head(("given",), text + joints, sizes, _ULTRALYTICS, suppressed, values=values)


HEADS = {
    HeadName.YOLOV8_POSE: _ultralytics(_COLUMNS, 5, 1, 3),
    HeadName.YOLOV8_POSE_XY: _ultralytics(_COLUMNS, 5, 1, 2),
    HeadName.YOLO_END2END_POSE: _ultralytics(_ROWS, 6, 2, 3, suppressed=True),
    HeadName.YOLO_END2END_POSE_XY: _ultralytics(_ROWS, 6, 2, 2, suppressed=True),
    HeadName.MMDEPLOY_POSE: Head(("dets", "keypoints"), _MMDEPLOY, _mmdeploy_sizes, _MMPOSE, open_rows=True),
    HeadName.YOLO_NAS_POSE: Head(
        ("boxes", "scores", "points", "flat_confidences"), _YOLO_NAS, _yolo_nas_sizes, POSE_INPUT
    ),
    HeadName.YOLO_NAS_POSE_BATCH: Head(
        ("people", "boxes", "flat_scores", "joints"),
        _YOLO_NAS_BATCH,
        _yolo_nas_batch_sizes,
        POSE_INPUT,
        suppressed=True,
        whole=("people",),
    ),
    HeadName.DECODED: Head(("boxes", "scores", "joints"), "", _decoded_sizes, replace(POSE_INPUT, normalization=_RGB)),
}
