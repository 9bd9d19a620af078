"""Detection NMS through ``EfficientNMS_TRT``, a node of TensorRT's own plugin library.

Source: https://github.com/NVIDIA/TensorRT/tree/main/plugin/efficientNMSPlugin. The plugin is registered in TensorRT 10
and 11, but not in TensorRT-RTX. Its inputs are FP32 here, because FP16 coordinates are too coarse. ``class_agnostic``
is always written, because the plugin creator otherwise keeps the last value. The best 4,096 pairs of box and class
above the threshold are considered. Unused rows have class 0; the export replaces it with -1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..operators.contract import DOMAIN, EFFICIENT_CANDIDATES, EFFICIENT_NAME, EFFICIENT_VERSION, NmsFields
from ..operators.selection import Selection
from .plugin_nodes import DetectionNms, set_detection_types

MAX_BATCH = 1024


class EfficientNms(torch.autograd.Function):
    """Detection NMS as an autograd function that exports as one ``EfficientNMS_TRT`` node.

    It maps boxes (B, A, 4) and scores (B, A, K) to num_detections (B, 1) int32, boxes (B, N, 4), scores (B, N) and
    classes (B, N) int32.
    """

    @staticmethod
    def forward(
        _ctx: Any, boxes: Tensor, scores: Tensor, selection: Selection, _batch: int | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fields = NmsFields(selection.confidence, selection.iou, selection.limit, EFFICIENT_CANDIDATES)
        count, boxes, scores, classes = DetectionNms.forward(None, boxes, scores, fields)
        return count, boxes, scores, classes.clamp(min=0)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, selection: Selection, batch: int | None) -> Any:
        outputs = g.op(
            f"{DOMAIN}::{EFFICIENT_NAME}",
            boxes,
            scores,
            plugin_version_s=EFFICIENT_VERSION,
            score_threshold_f=selection.confidence,
            iou_threshold_f=selection.iou,
            max_output_boxes_i=selection.limit,
            background_class_i=-1,
            score_activation_i=0,
            class_agnostic_i=0,
            box_coding_i=0,
            outputs=4,
        )
        set_detection_types(outputs, boxes, batch, selection.limit)
        return outputs


class EfficientSelect(nn.Module):
    """Selection of the final detections through the node; returns what ``SelectDetections`` does."""

    def __init__(self, selection: Selection, batch: int | None) -> None:
        super().__init__()
        self.selection, self.batch = selection, batch

    def forward(self, decoded: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        count, boxes, scores, classes = EfficientNms.apply(*decoded, self.selection, self.batch)
        classes = torch.where(scores > 0, classes, torch.full_like(classes, -1))
        return count, boxes, scores, classes


def check_limits(selection: Selection, batch: int | None) -> None:
    """Raises UsageError when the IoU threshold, the limit or the batch is outside what the node supports."""
    if selection.iou <= 0:
        raise UsageError(f"exporting for TensorRT: nms_threshold is 0, {EFFICIENT_NAME} takes more than 0. Raise it.")
    if selection.limit > EFFICIENT_CANDIDATES or (batch or 1) > MAX_BATCH:
        raise UsageError(
            f"exporting for TensorRT: got {selection.limit} detections and batch {batch}, {EFFICIENT_NAME} takes"
            f" {EFFICIENT_CANDIDATES} and {MAX_BATCH} at most. Lower them."
        )
