"""``DetectionNMS_TRT`` and ``KeypointDecode_TRT`` in an exported graph: autograd functions that export as one node.

In torch they compute what operators/README.md specifies, in NumPy and OpenCV: the exporter would record torch's loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..operators.contract import DETECTION_NAME, DOMAIN, KEYPOINT_NAME, MAX_SIDE, NAMESPACE, VERSION, NmsFields
from .functions import Floats, survivors


class DetectionNms(torch.autograd.Function):
    """Boxes (B, A, 4) and scores (B, A, K) to count (B, 1) int32, boxes (B, N, 4), scores and int32 classes (B, N)."""

    @staticmethod
    def forward(_ctx: Any, boxes: Tensor, scores: Tensor, fields: NmsFields) -> tuple[Tensor, ...]:
        images = zip(boxes.detach().cpu().numpy(), scores.detach().cpu().numpy(), strict=True)
        rows = [_suppress(*image, fields) for image in images]
        return tuple(torch.from_numpy(np.stack(part)).to(boxes.device) for part in zip(*rows, strict=True))

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, fields: NmsFields) -> Any:
        outputs = g.op(f"{DOMAIN}::{DETECTION_NAME}", boxes, scores, **nms_attributes(fields), outputs=4)
        set_detection_types(outputs, boxes, boxes.type().sizes()[0], fields.max_output_boxes)
        return outputs


class KeypointDecode(torch.autograd.Function):
    """Heatmaps (R, K, S, S) and boxes (R, 4) xyxy to joints (R, K, 3): x, y and logit."""

    @staticmethod
    def forward(_ctx: Any, heatmaps: Tensor, boxes: Tensor) -> Tensor:
        pairs = zip(heatmaps.detach().cpu().numpy(), boxes.detach().cpu().numpy(), strict=True)
        return torch.from_numpy(np.stack([_find_joints(*pair) for pair in pairs])).to(boxes.device)

    @staticmethod
    def symbolic(g: Any, heatmaps: Any, boxes: Any) -> Any:
        joints = g.op(
            f"{DOMAIN}::{KEYPOINT_NAME}", heatmaps, boxes, plugin_version_s=VERSION, plugin_namespace_s=NAMESPACE
        )
        rows, count, *_ = heatmaps.type().sizes()
        return joints.setType(heatmaps.type().with_sizes([rows, count, 3]))


def nms_attributes(fields: NmsFields) -> dict[str, Any]:
    """Returns the attributes of an NMS node of this package, under the names that torch's exporter takes."""
    return {
        "plugin_version_s": VERSION,
        "plugin_namespace_s": NAMESPACE,
        "score_threshold_f": fields.score_threshold,
        "iou_threshold_f": fields.iou_threshold,
        "max_output_boxes_i": fields.max_output_boxes,
        "num_pre_nms_predictions_i": fields.num_pre_nms_predictions,
    }


def set_detection_types(outputs: Sequence[Any], like: Any, batch: int | None, limit: int) -> None:
    """Sets the types of the four outputs of a detection NMS node; ``like`` is a traced FP32 value."""
    for output, shape in zip(outputs, ((1,), (limit, 4), (limit,), (limit,)), strict=True):
        output.setType(like.type().with_sizes([batch, *shape]))
    for place in (0, 3):
        outputs[place].setType(outputs[place].type().with_dtype(torch.int32))


def _suppress(boxes: Floats, scores: Floats, fields: NmsFields) -> tuple[npt.NDArray[Any], ...]:
    """Returns the outputs of DetectionNMS_TRT for one image: boxes (A, 4) and scores (A, K)."""
    flat, limit, iou = scores.reshape(-1), fields.max_output_boxes, fields.iou_threshold
    pairs = np.flatnonzero(flat > fields.score_threshold)  # False for NaN
    pairs = pairs[np.argsort(-flat[pairs], kind="stable")][: fields.num_pre_nms_predictions]
    anchors, kinds = np.divmod(pairs, scores.shape[1])
    alive = np.zeros(len(pairs), bool)
    for kind in np.unique(kinds):
        (own,) = np.nonzero(kinds == kind)
        alive[own[survivors(boxes[anchors[own]], flat[pairs[own]], limit, iou, fields.score_threshold)]] = True
    (kept,) = np.nonzero(alive)
    kept = kept[:limit]
    found = np.zeros((limit, 4), np.float32), np.zeros(limit, np.float32), np.full(limit, -1, np.int32)
    for whole, part in zip(found, (boxes[anchors[kept]], flat[pairs[kept]], kinds[kept]), strict=True):
        whole[: len(kept)] = part
    return np.array([len(kept)], np.int32), *found


def _find_joints(heatmaps: Floats, box: Floats) -> Floats:
    """Returns the joints (K, 3) of one box from its heatmaps (K, S, S)."""
    sides = [min(max(side, 1.0), MAX_SIDE) if side == side else 1.0 for side in (box[2:] - box[:2]).tolist()]
    columns, rows = (math.ceil(side) for side in sides)
    joints = np.zeros((len(heatmaps), 3), np.float32)
    for joint, heatmap in zip(joints, heatmaps, strict=True):
        enlarged = cv2.resize(heatmap, (columns, rows), interpolation=cv2.INTER_CUBIC)  # a = -0.75
        row, column = divmod(int(enlarged.argmax()), columns)
        places = ((column + 0.5) * (sides[0] / columns), (row + 0.5) * (sides[1] / rows))
        joint[:] = box[0] + places[0], box[1] + places[1], enlarged[row, column]
    return joints
