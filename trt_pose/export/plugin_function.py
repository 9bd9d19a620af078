"""PoseNMS_TRT in standard operators, for ONNX Runtime: what plugins/README.md states, as an ONNX function.

A model followed by this function, both serialized, is one model: protobuf merges messages that are written one after
the other. That is how :class:`trt_pose.runtime.ort.OnnxRunner` opens a file with the plugin node, without the onnx
package. ``python -m trt_pose.export.plugin_function`` writes the function into the package.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import parser

from .. import pose_nms
from ..errors import ExportError
from ..files import write_atomically
from .plugin_node import DOMAIN

_TEXT = """
<opset_import: ["" : 17], domain: "{domain}">
{name} <score_threshold, iou_threshold, max_output_boxes, num_pre_nms_predictions, plugin_version, plugin_namespace>
  (boxes, scores, joints) => (num_predictions, pred_boxes, pred_scores, pred_joints)
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
  asked = Constant <value_int : int = @num_pre_nms_predictions> ()
  rows_out = Unsqueeze (most, zeros)
  batch = Shape <start = 0, end = 1> (boxes)

  flat = Squeeze (scores, twos)
  missing = IsNaN (flat)
  clean = Where (missing, minus_one, flat)
  anchors = Shape <start = 1, end = 2> (flat)
  wanted = Unsqueeze (asked, zeros)
  k = Min (wanted, anchors)
  ranked, places = TopK <axis = 1> (clean, k)
  candidates_at = Unsqueeze (places, twos)
  candidates = GatherND <batch_dims = 1> (boxes, candidates_at)

  per_class = Unsqueeze (ranked, ones)
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
  anchor_at = GatherND <batch_dims = 1> (places, inside_at)
  joints_at = Unsqueeze (anchor_at, twos)
  people = GatherND <batch_dims = 1> (joints, joints_at)
  valid_joints = Unsqueeze (valid_box, threes)
  pred_joints = Where (valid_joints, people, zero)
}}
"""


def make_function() -> onnx.ModelProto:
    """A model that holds nothing but the function."""
    function = parser.parse_function(_TEXT.format(domain=DOMAIN, name=pose_nms.NAME))
    return onnx.ModelProto(functions=[function])


def write_function() -> Path:
    """Writes the function into the package."""
    path = Path(__file__).parent.parent / pose_nms.FUNCTION
    data = make_function().SerializeToString(deterministic=True)
    return write_atomically(path, lambda target: target.write_bytes(data), ExportError)


if __name__ == "__main__":
    write_function()
