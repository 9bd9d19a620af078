"""ONNX operators without an exact torch equivalent, as autograd functions that follow the ONNX specification.

``forward`` is the reference for every backend; ``symbolic`` defines the exported nodes.
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
    """The k largest values of each row, descending; ties keep index order, which torch.topk does not guarantee."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Returns the values and int64 indices, both (B, k), of (B, A)."""
        ordered, indices = torch.sort(values, dim=1, descending=True, stable=True)
        return ordered[:, :k], indices[:, :k]

    @staticmethod
    def symbolic(g: Any, values: Any, k: int) -> Any:
        return g.op("TopK", values, _constant(g, torch.tensor([k])), axis_i=1, largest_i=1, sorted_i=1, outputs=2)


class KeepScores(torch.autograd.Function):
    """Greedy non-maximum suppression that keeps the shape: suppressed scores become zero."""

    @staticmethod
    def forward(_ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, confidence: float) -> Tensor:
        """Suppresses boxes per image.

        Args:
            boxes: (B, P, 4) xyxy.
            scores: (B, P), descending.
            limit: maximum number of boxes kept per image.
            iou: boxes whose IoU with a better box is higher are suppressed.
            confidence: boxes with a higher score are kept.

        Returns:
            (B, P) scores, zero where suppressed, at or below ``confidence``, or past ``limit``.
        """
        # In NumPy: the exporter would record torch loops, a trace of 20,000 nodes.
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
        places = g.op("Gather", selected, _constant(g, torch.tensor([0, 2])), axis_i=1)  # (M, 2): image, candidate
        return _scatter_kept(g, scores, places)


class KeepClassScores(torch.autograd.Function):
    """:class:`KeepScores` applied to each class separately; an anchor may be kept for several classes."""

    @staticmethod
    def forward(_ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, confidence: float) -> Tensor:
        """Suppresses boxes (B, P, 4) xyxy by their scores (B, K, P), in any order; ``limit`` is per class.

        Returns:
            (B, K, P) scores, zero where suppressed.
        """
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
    """Returns the rows that greedy suppression keeps, best first; among equal scores the first row wins.

    Args:
        boxes: (P, 4) float32 xyxy.
        scores: (P,) float32.
        limit: maximum number of rows.
        iou: boxes whose IoU with a better box is higher are suppressed.
        confidence: boxes with a higher score are kept.
    """
    rows = np.flatnonzero(scores > confidence)  # False for NaN
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
    """Adds NonMaxSuppression of (B, P, 4) boxes and (B, K, P) scores; its output (M, 3) is image, class, candidate."""
    return g.op(
        "NonMaxSuppression",
        boxes,
        scores,
        _constant(g, torch.tensor([limit])),
        _constant(g, torch.tensor([iou], dtype=torch.float32)),
        _constant(g, torch.tensor([confidence], dtype=torch.float32)),
    )


def _scatter_kept(g: Any, scores: Any, places: Any) -> Any:
    """Adds nodes for ``scores`` at ``places`` and zero elsewhere."""
    nothing = g.op("ConstantOfShape", g.op("Shape", scores), value_t=torch.tensor([0.0]))
    kept = g.op("ScatterND", nothing, places, g.op("GatherND", scores, places))
    return kept.setType(scores.type())


def box_iou(boxes: Floats) -> Floats:
    """Returns the intersection over union of every pair of boxes, computed as ONNX Runtime does.

    The corners may be in any order; the IoU of an empty box is zero.

    Args:
        boxes: (P, 4) float32 xyxy.

    Returns:
        (P, P) float32.
    """
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    with np.errstate(all="ignore"):  # the IoU of boxes with infinities or NaN is zero
        sides = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        common = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], np.float32(0))
        area = (high - low).prod(axis=1)
        union = area[:, None] + area[None] - common
        overlap: Floats = np.where(union > 0, common / union, np.float32(0))
    return overlap


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)
