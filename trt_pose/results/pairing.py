"""Pairing of the people or objects that two runs found in the same image, and their differences.

Rows cannot be compared by position: rounding can swap candidates of nearly equal score, and can move a candidate near a
threshold to the other side of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats import Floats
from ..skeleton import BODY_SHARE
from ..tasks import Task
from .predictions import Predictions


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of poses or detections.

    Attributes:
        first: number of predictions in the first set.
        second: number of predictions in the second set.
        matched: number of pairs.
        px: largest difference of a box or joint coordinate over all pairs, px.
        score: largest difference of a score or joint confidence over all pairs.
    """

    first: int
    second: int
    matched: int
    px: float
    score: float

    @property
    def unmatched(self) -> int:
        """Number of predictions that are in only one of the sets."""
        return self.first + self.second - 2 * self.matched

    def describe(self, task: Task) -> str:
        """Returns the difference in words: ``2 and 3 people, 2 in common, at most 0.1 px and 0.01 score apart``."""
        return (
            f"{self.first} and {self.second} {task.many}, {self.matched} in common,"
            f" at most {self.px:.2g} px and {self.score:.2g} score apart"
        )


def box_iou(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    """Returns the intersection over union of every pair: (N, 4) and (M, 4) xyxy give (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2]).astype(np.float64)
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).astype(np.float64).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    overlap: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def pair_boxes(first: Floats, second: Floats, least_iou: float = 0.5) -> npt.NDArray[np.intp]:
    """Pairs boxes greedily by descending IoU; each box is used at most once.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy.
        least_iou: smallest IoU of a pair.

    Returns:
        (K, 2) row indices into ``first`` and ``second``.
    """
    overlap: npt.NDArray[Any] = box_iou(first, second)
    pairs = []
    while overlap.size and overlap.max() >= least_iou:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((row, column))
        overlap[row, :] = -1.0
        overlap[:, column] = -1.0
    return np.array(pairs, np.intp).reshape(-1, 2)


def pair(first: Predictions, second: Predictions) -> npt.NDArray[np.intp]:
    """Pairs predictions of one image by :func:`pair_boxes`, within each class where the model has several.

    Returns:
        (K, 2) row indices into ``first`` and ``second``.
    """
    kinds, others = first.kinds, second.kinds
    if kinds is None or others is None:
        return pair_boxes(first.boxes, second.boxes)
    pairs = [np.zeros((0, 2), np.intp)]
    for kind in np.intersect1d(kinds, others):
        rows, columns = np.flatnonzero(kinds == kind), np.flatnonzero(others == kind)
        matched = pair_boxes(first.boxes[rows], second.boxes[columns])
        pairs.append(np.stack([rows[matched[:, 0]], columns[matched[:, 1]]], axis=1))
    joined: npt.NDArray[np.intp] = np.concatenate(pairs)
    return joined


def compare_predictions(first: Predictions, second: Predictions) -> Difference:
    """Pairs the predictions of two results of one image and returns their largest differences."""
    pairs = pair(first, second)
    a, b = first[pairs[:, 0]], second[pairs[:, 1]]
    px = max(_largest(a.boxes - b.boxes), _largest(a.points - b.points))
    score = max(_largest(a.scores - b.scores), _largest(a.point_scores - b.point_scores))
    return Difference(len(first), len(second), len(pairs), px, score)


def _largest(values: Floats) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def object_keypoint_similarity(
    boxes: Floats, truth: Floats, points: Floats, sigmas: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Returns the OKS of people row by row (https://cocodataset.org/#keypoints-eval); all joints count as visible.

    The area of a person is the area of its box times ``BODY_SHARE``. NaN joints give 0.

    Args:
        boxes: (K, 4) xyxy px, of the people in ``truth``.
        truth: (K, J, 2) px.
        points: (K, J, 2) px.
        sigmas: per-joint constants of the skeleton, J of them.

    Returns:
        (K,) float64 in 0..1.
    """
    squared = np.square(truth - points).sum(axis=2).astype(np.float64)  # (K, J)
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).astype(np.float64).prod(axis=1) * BODY_SHARE
    variance = np.square(2.0 * np.asarray(sigmas, np.float64))
    spread = 2.0 * variance[None] * np.maximum(size, np.spacing(1.0))[:, None]
    similarity: npt.NDArray[np.float64] = np.exp(-squared / spread).mean(axis=1)
    # NaN joints count as a similarity of 0; a NaN result would pass every limit check.
    return np.nan_to_num(similarity, nan=0.0)
