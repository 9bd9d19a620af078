"""The operators as ONNX functions of standard operators, for ONNX Runtime; README.md specifies them.

Protobuf merges serialized messages that are concatenated, so a serialized model followed by these functions is one
model. :class:`trt_pose.runtime.ort.OnnxRunner` uses this to open files with plugin nodes without the onnx package.
``python -m trt_pose.operators.onnx_functions`` writes the functions into the package. EfficientNMS_TRT supports only
the attributes that trt_pose exports (corners, no activation, class by class).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import parser

from ..errors import ExportError
from ..files import write_atomically
from . import contract
from .contract import DOMAIN

_HEAD = """
<opset_import: ["" : 17], domain: "{domain}">
{name} <{attributes}> ({inputs}) => (num_predictions, pred_boxes, pred_scores, {last})
{{
  zero = Constant <value_float = 0.0> ()
  minus_one = Constant <value_float = -1.0> ()
  zeros = Constant <value_ints = [0]> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  threes = Constant <value_ints = [3]> ()
  score_limit = Constant <value_float : float = @score_threshold> ()
  overlap_limit = Constant <value_float : float = @iou_threshold> ()
  most = Constant <value_int : int = @max_output_boxes> ()
  asked = Constant <{candidates}> ()
  rows_out = Unsqueeze (most, zeros)
  batch = Shape <start = 0, end = 1> (boxes)
  classes = Shape <start = 2, end = 3> (scores)

  all_pairs = Constant <value_ints = [0, -1]> ()
  flat = Reshape (scores, all_pairs)
  missing = IsNaN (flat)
  clean = Where (missing, minus_one, flat)
  pairs = Shape <start = 1, end = 2> (flat)
  wanted = Unsqueeze (asked, zeros)
  k = Min (wanted, pairs)
  ranked, places = TopK <axis = 1> (clean, k)
  anchors = Div (places, classes)
  candidates_at = Unsqueeze (anchors, twos)
  candidates = GatherND <batch_dims = 1> (boxes, candidates_at)

  kind = Mod (places, classes)
  kind_across = Unsqueeze (kind, ones)
  first = Constant <value_int = 0> ()
  step = Constant <value_int = 1> ()
  class_count = Squeeze (classes, zeros)
  numbers = Range (first, class_count, step)
  kinds_down = Constant <value_ints = [1, -1, 1]> ()
  kinds = Reshape (numbers, kinds_down)
  of_class = Equal (kind_across, kinds)
  ranked_across = Unsqueeze (ranked, ones)
  per_class = Where (of_class, ranked_across, minus_one)
  chosen = NonMaxSuppression (candidates, per_class, most, overlap_limit, score_limit)
  image_and_row = Constant <value_ints = [0, 2]> ()
  chosen_at = Gather <axis = 1> (chosen, image_and_row)
  chosen_scores = GatherND (ranked, chosen_at)
  room = Concat <axis = 0> (batch, rows_out)
  nothing = ConstantOfShape (room)
  candidates_room = Concat <axis = 0> (batch, k)
  cleared = ConstantOfShape (candidates_room)
  kept = ScatterND (cleared, chosen_at, chosen_scores)
  padded = Concat <axis = 1> (kept, nothing)
  pred_scores, rows = TopK <axis = 1> (padded, rows_out)
  valid = Greater (pred_scores, zero)
  valid32 = Cast <to = 6> (valid)
  num_predictions = ReduceSum <keepdims = 1> (valid32, ones)

  last = Sub (k, ones)
  inside = Min (rows, last)
  inside_at = Unsqueeze (inside, twos)
  found = GatherND <batch_dims = 1> (candidates, inside_at)
  valid_box = Unsqueeze (valid, twos)
  pred_boxes = Where (valid_box, found, zero)
"""
_JOINTS = """
  anchor_at = GatherND <batch_dims = 1> (anchors, inside_at)
  joints_at = Unsqueeze (anchor_at, twos)
  people = GatherND <batch_dims = 1> (joints, joints_at)
  valid_joints = Unsqueeze (valid_box, threes)
  pred_joints = Where (valid_joints, people, zero)
}}
"""
_CLASSES = """
  kind_of_row = GatherND <batch_dims = 1> (kind, inside_at)
  none = Constant <value_int = {none}> ()
  class_or_none = Where (valid, kind_of_row, none)
  pred_classes = Cast <to = 6> (class_or_none)
}}
"""
# Each box enlarges its heatmaps by two products of matrices, whose rows hold Keys' cubic weights; ONNX Runtime's Resize
# is slow in its cubic mode. The heatmaps are padded, so that every row has its four neighbours.
_WEIGHTS = """
    {side}_count = Squeeze ({side}_pixels, zeros)
    {side}_range = Range (first, {side}_count, next)
    {side}_real = Cast <to = 1> ({side}_range)
    {side}_middle = Add ({side}_real, half)
    {side}_shrink = Div (size_real, {side}_rounded)
    {side}_scaled = Mul ({side}_middle, {side}_shrink)
    {side}_at = Sub ({side}_scaled, half)
    {side}_down = Unsqueeze ({side}_at, ones)
    {side}_signed = Sub ({side}_down, cells)
    {side}_d = Abs ({side}_signed)
    {side}_dd = Mul ({side}_d, {side}_d)
    {side}_n1 = Mul ({side}_d, near_a)
    {side}_n2 = Sub ({side}_n1, near_b)
    {side}_n3 = Mul ({side}_n2, {side}_dd)
    {side}_near = Add ({side}_n3, unit)
    {side}_f1 = Mul ({side}_d, far_a)
    {side}_f2 = Sub ({side}_f1, far_b)
    {side}_f3 = Mul ({side}_f2, {side}_d)
    {side}_f4 = Add ({side}_f3, far_c)
    {side}_f5 = Mul ({side}_f4, {side}_d)
    {side}_far = Sub ({side}_f5, far_d)
    {side}_is_near = LessOrEqual ({side}_d, unit)
    {side}_is_far = Less ({side}_d, two)
    {side}_outer = Where ({side}_is_far, {side}_far, zero)
    {side}_weights = Where ({side}_is_near, {side}_near, {side}_outer)
"""
_KEYPOINTS = """
<opset_import: ["" : 17], domain: "{domain}">
{name} <plugin_version, plugin_namespace> (heatmaps, boxes) => (joints)
{{
  zero = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  unit = Constant <value_float = 1.0> ()
  two = Constant <value_float = 2.0> ()
  near_a = Constant <value_float = 1.25> ()
  near_b = Constant <value_float = 2.25> ()
  far_a = Constant <value_float = -0.75> ()
  far_b = Constant <value_float = -3.75> ()
  far_c = Constant <value_float = -6.0> ()
  far_d = Constant <value_float = -3.0> ()
  longest = Constant <value_float = {longest}> ()
  zeros = Constant <value_ints = [0]> ()
  ones = Constant <value_ints = [1]> ()
  twos = Constant <value_ints = [2]> ()
  fours = Constant <value_ints = [4]> ()
  first = Constant <value_int = 0> ()
  next = Constant <value_int = 1> ()
  flat_shape = Constant <value_ints = [0, -1]> ()
  margins = Constant <value_ints = [0, 0, 2, 2, 0, 0, 2, 2]> ()
  padded = Pad <mode = "edge"> (heatmaps, margins)
  rows = Shape <start = 0, end = 1> (heatmaps)
  count = Squeeze (rows, zeros)
  size = Shape <start = 3, end = 4> (heatmaps)
  size_real = Cast <to = 1> (size)
  before = Constant <value_int = -2> ()
  margin = Constant <value_int = 2> ()
  size_one = Squeeze (size, zeros)
  behind = Add (size_one, margin)
  cells_whole = Range (before, behind, next)
  cells = Cast <to = 1> (cells_whole)
  always = Cast <to = 9> (next)
  per_box = Loop <body = one_box (int64 row, bool go_on) => (bool going_on, float[joint, 3] points)
  {{
    going_on = Identity (go_on)
    heatmap = Gather <axis = 0> (padded, row)
    box = Gather <axis = 0> (boxes, row)
    corner = Slice (box, zeros, twos)
    opposite = Slice (box, twos, fours)
    measured = Sub (opposite, corner)
    missing = IsNaN (measured)
    known = Where (missing, unit, measured)
    limited = Min (known, longest)
    side = Max (limited, unit)
    rounded = Ceil (side)
    x_rounded = Slice (rounded, zeros, ones)
    y_rounded = Slice (rounded, ones, twos)
    x_pixels = Cast <to = 7> (x_rounded)
    y_pixels = Cast <to = 7> (y_rounded)
{weights}
    x_across = Transpose <perm = [1, 0]> (x_weights)
    taller = MatMul (y_weights, heatmap)
    enlarged = MatMul (taller, x_across)
    flat = Reshape (enlarged, flat_shape)
    place = ArgMax <axis = 1, keepdims = 1> (flat)
    best = GatherElements <axis = 1> (flat, place)
    x = Mod (place, x_pixels)
    y = Div (place, x_pixels)
    found = Concat <axis = 1> (x, y)
    found_real = Cast <to = 1> (found)
    middle = Add (found_real, half)
    step = Div (side, rounded)
    from_corner = Mul (middle, step)
    placed = Add (from_corner, corner)
    points = Concat <axis = 1> (placed, best)
  }}> (count, always)
  joint_count = Shape <start = 1, end = 2> (heatmaps)
  threes = Constant <value_ints = [3]> ()
  all_joints = Concat <axis = 0> (rows, joint_count, threes)
  joints = Reshape (per_box, all_joints)
}}
"""
_FIELDS = "score_threshold, iou_threshold, max_output_boxes, plugin_version"
_OWN = {
    "attributes": f"{_FIELDS}, num_pre_nms_predictions, plugin_namespace",
    "candidates": "value_int : int = @num_pre_nms_predictions",
}
_OPERATORS: tuple[tuple[str, dict[str, Any]], ...] = (
    (_HEAD + _JOINTS, {"name": contract.NAME, "inputs": "boxes, scores, joints", "last": "pred_joints", **_OWN}),
    (
        _HEAD + _CLASSES,
        {"name": contract.DETECTION_NAME, "inputs": "boxes, scores", "last": "pred_classes", "none": -1, **_OWN},
    ),
    (
        _HEAD + _CLASSES,
        {
            "name": contract.EFFICIENT_NAME,
            "inputs": "boxes, scores",
            "last": "pred_classes",
            "none": 0,
            "attributes": f"{_FIELDS}, background_class, score_activation, class_agnostic, box_coding",
            "candidates": f"value_int = {contract.EFFICIENT_CANDIDATES}",
        },
    ),
    (
        _KEYPOINTS,
        {
            "name": contract.KEYPOINT_NAME,
            "longest": float(contract.MAX_SIDE),
            "weights": "".join(_WEIGHTS.format(side=side) for side in "xy"),
        },
    ),
)


def make_functions() -> onnx.ModelProto:
    """Returns a model that holds only the functions."""
    texts = [text.format(domain=DOMAIN, **words) for text, words in _OPERATORS]
    return onnx.ModelProto(functions=[parser.parse_function(text) for text in texts])


def write_functions() -> Path:
    """Writes the functions into the package; returns the path."""
    path = Path(__file__).parent.parent / contract.FUNCTIONS
    data = make_functions().SerializeToString(deterministic=True)
    return write_atomically(path, lambda target: target.write_bytes(data), ExportError)


if __name__ == "__main__":
    write_functions()
