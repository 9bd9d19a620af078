"""The NMS plugins as ONNX functions of standard operators, for ONNX Runtime; README.md specifies them.

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
