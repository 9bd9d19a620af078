"""The pose NMS plugin in an exported graph: one ``PoseNMS_TRT`` node, which TensorRT runs with the plugin.

In torch the node computes what operators/README.md specifies, so a graph with the plugin has a torch reference, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..operators.contract import DOMAIN, NAME, NmsFields
from ..operators.selection import Selection
from .functions import KeepScores, TopK
from .plugin_nodes import nms_attributes
from .select import select_decoded


class PoseNms(torch.autograd.Function):
    """Pose NMS as an autograd function that exports as one ``PoseNMS_TRT`` node.

    It maps boxes (B, A, 4), scores (B, A, 1) and joints (B, A, J, 3) to the outputs of the batch format: count (B, 1)
    int32, boxes (B, N, 4), scores (B, N) and joints (B, N, J, 3).
    """

    @staticmethod
    def forward(
        _ctx: Any,
        boxes: Tensor,
        scores: Tensor,
        joints: Tensor,
        selection: Selection,
        _batch: int | None,
        _joint_count: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Calls the operators' forward functions directly: autograd functions cannot be nested in a trace.
        count, out_boxes, out_scores, out_joints = select_decoded(
            boxes,
            torch.where(scores.isnan(), -1.0, scores),  # a NaN score is never kept and suppresses nothing
            joints,
            selection,
            partial(TopK.forward, None),
            partial(KeepScores.forward, None),
        )
        return count.to(torch.int32), out_boxes, out_scores, out_joints

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, joints: Any, selection: Selection, batch: int | None, joint_count: int
    ) -> Any:
        outputs = g.op(
            f"{DOMAIN}::{NAME}",
            boxes,
            scores,
            joints,
            **nms_attributes(NmsFields(selection.confidence, selection.iou, selection.limit, selection.candidates)),
            outputs=4,
        )
        shapes = ((1,), (selection.limit, 4), (selection.limit,), (selection.limit, joint_count, 3))
        for output, shape in zip(outputs, shapes, strict=True):
            output.setType(scores.type().with_sizes([batch, *shape]))
        outputs[0].setType(outputs[0].type().with_dtype(torch.int32))
        return outputs


class PluginSelect(nn.Module):
    """Selection of the final predictions from the decoded heads through the plugin node."""

    def __init__(self, selection: Selection, batch: int | None, num_joints: int) -> None:
        super().__init__()
        self.selection, self.batch, self.num_joints = selection, batch, num_joints

    def forward(self, decoded: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = PoseNms.apply(*decoded, self.selection, self.batch, self.num_joints)
        return outputs
