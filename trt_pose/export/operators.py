"""ONNX operators that torch has no exact twins of, as autograd functions: eager torch computes what ONNX specifies.

``forward`` is the reference for every backend; ``symbolic`` is what the exporter writes.
Sources: https://onnx.ai/onnx/operators/onnx__TopK.html, https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]


class TopK(torch.autograd.Function):
    """The k largest of each row, descending; equal values in order of their index (torch.topk promises no order)."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(B, A) to values and int64 indices, both (B, k)."""
        ordered, indices = torch.sort(values, dim=1, descending=True, stable=True)
        return ordered[:, :k], indices[:, :k]

    @staticmethod
    def symbolic(g: Any, values: Any, k: int) -> Any:
        return g.op("TopK", values, _constant(g, torch.tensor([k])), axis_i=1, largest_i=1, sorted_i=1, outputs=2)


class KeepScores(torch.autograd.Function):
    """Greedy non-maximum suppression that keeps the shape: the scores of the survivors, zero for all others."""

    @staticmethod
    def forward(_ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, confidence: float) -> Tensor:
        """Suppresses per image.

        Args:
            boxes: (B, P, 4) xyxy. scores: (B, P), descending.
            limit: survivors per image. iou: suppress above it. confidence: keep above it.

        Returns:
            (B, P) scores, zero where suppressed, at or below ``confidence``, or past ``limit``.
        """
        # In NumPy: a trace of these loops, which the exporter would record, has 20,000 nodes.
        all_boxes, all_scores = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
        kept = np.zeros_like(all_scores)
        for image, (image_boxes, image_scores) in enumerate(zip(all_boxes, all_scores, strict=True)):
            rows = survivors(image_boxes, image_scores, limit, iou, confidence)
            kept[image, rows] = image_scores[rows]
        return torch.from_numpy(kept).to(scores.device)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: int, iou: float, confidence: float) -> Any:
        one_class = g.op("Unsqueeze", scores, _constant(g, torch.tensor([1])))
        selected = _suppress(g, boxes, one_class, limit, iou, confidence)
        places = g.op("Gather", selected, _constant(g, torch.tensor([0, 2])), axis_i=1)  # (survivors, 2)
        return _scatter_kept(g, scores, places)


class KeepClassScores(torch.autograd.Function):
    """:class:`KeepScores` per class: an anchor may survive for several classes, and suppresses within each alone."""

    @staticmethod
    def forward(_ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, confidence: float) -> Tensor:
        """Boxes (B, P, 4) xyxy and scores (B, K, P), in any order, to scores (B, K, P); ``limit`` counts per class."""
        all_boxes, all_scores = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
        kept = np.zeros_like(all_scores)
        for image, (image_boxes, image_scores) in enumerate(zip(all_boxes, all_scores, strict=True)):
            for kind, values in enumerate(image_scores):
                rows = survivors(image_boxes, values, limit, iou, confidence)
                kept[image, kind, rows] = values[rows]
        return torch.from_numpy(kept).to(scores.device)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: int, iou: float, confidence: float) -> Any:
        selected = _suppress(g, boxes, scores, limit, iou, confidence)
        return _scatter_kept(g, scores, selected)


def survivors(boxes: Floats, scores: Floats, limit: int, iou: float, confidence: float) -> npt.NDArray[np.intp]:
    """Rows of (P, 4) boxes with (P,) scores that greedy suppression keeps, best first; of equals the first row."""
    rows = np.flatnonzero(scores > confidence)  # NaN is above nothing
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    overlaps = box_iou(boxes[rows]) > np.float32(iou)
    alive = np.ones(len(rows), bool)
    kept: list[int] = []
    for place in range(len(rows)):
        if len(kept) < limit and alive[place]:
            kept.append(rows[place])
            alive &= ~overlaps[place]
    return np.array(kept, np.intp)


def _suppress(g: Any, boxes: Any, scores: Any, limit: int, iou: float, confidence: float) -> Any:
    """NonMaxSuppression of (B, P, 4) and (B, K, P): (survivors, 3) image, class, candidate."""
    return g.op(
        "NonMaxSuppression",
        boxes,
        scores,
        _constant(g, torch.tensor([limit])),
        _constant(g, torch.tensor([iou], dtype=torch.float32)),
        _constant(g, torch.tensor([confidence], dtype=torch.float32)),
    )


def _scatter_kept(g: Any, scores: Any, places: Any) -> Any:
    """``scores`` at ``places``, zero elsewhere."""
    nothing = g.op("ConstantOfShape", g.op("Shape", scores), value_t=torch.tensor([0.0]))
    kept = g.op("ScatterND", nothing, places, g.op("GatherND", scores, places))
    return kept.setType(scores.type())


def box_iou(boxes: Floats) -> Floats:
    """Intersection over union of every pair, as ONNX Runtime computes it: corners in any order, empty boxes at zero.

    Args:
        boxes: (P, 4) float32 xyxy.

    Returns:
        (P, P) float32.
    """
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    with np.errstate(all="ignore"):  # infinities and NaN overlap nothing
        sides = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        common = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], np.float32(0))
        area = (high - low).prod(axis=1)
        union = area[:, None] + area[None] - common
        overlap: Floats = np.where(union > 0, common / union, np.float32(0))
    return overlap


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)
