"""Checks that the predictions of a file are a valid selection from the candidates that torch computes.

Greedy suppression cannot be compared row by row. Where two scores agree to rounding either may come first, and what
follows is different: an untrained network has hundreds of such ties. What the selection must be, however, does not
depend on the order of ties:

1. Every prediction is one of the candidates.
2. No two predictions of a class overlap by more than the IoU threshold.
3. Every candidate above the confidence threshold is a prediction, or overlaps a better or equal prediction of its class
   by more than the IoU threshold, or comes after the last row of a full output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..operators.selection import Selection
from ..results.pairing import box_iou
from ..results.predictions import Predictions
from ..tasks import Task

# ONNX Runtime and torch sum in different orders: on the published models that moves coordinates by up to 2e-3 px and
# scores by 1e-5 (CONTRIBUTING.md, tolerances). The limits here are 25 and 100 times that.
PX, SCORE = 0.05, 1e-3
# Scores closer than this may come in any order, and may be on either side of a threshold; so may overlaps.
_TIE = 1e-4
_TIE_IOU = 2e-3

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidates:
    """The candidates of one image.

    Attributes:
        boxes: (A, 4) xyxy px.
        scores: (A, K), one column per class.
        joints: (A, J, 3) x, y px and confidence; J is 0 for detections.
    """

    boxes: Array
    scores: Array
    joints: Array


def find_fault(found: Predictions, candidates: Candidates, chosen: Selection, task: Task) -> str:
    """Returns what contradicts the three conditions, as a clause for a message; empty where they hold.

    Args:
        found: the predictions of the file for one image.
        candidates: those of torch for the same image.
        chosen: the thresholds and limits of the selection.
        task: what predictions are called.
    """
    if not (np.isfinite(candidates.boxes).all() and np.isfinite(candidates.scores).all()):
        return "the network's own outputs are not finite numbers, so the weights are damaged or overflow"
    kinds = np.zeros(len(found), np.int64) if found.kinds is None else found.kinds
    best = candidates.scores.max(axis=1)
    # Anchors below this score may have been cut off before the suppression.
    entered = np.sort(best)[-chosen.candidates] + _TIE if len(best) > chosen.candidates else -np.inf
    last = found.scores.min() + _TIE if len(found) == chosen.limit else -np.inf
    for kind in range(candidates.scores.shape[1]):
        rows = np.flatnonzero(kinds == kind)
        mine, scores = found[rows], candidates.scores[:, kind]
        anchors = np.flatnonzero(scores > chosen.confidence - _TIE)
        fault = _unknown(mine, candidates, anchors, scores, task) or _overlapping(mine, chosen.iou, task)
        if fault:
            return fault
        certain = (scores > chosen.confidence + _TIE) & (scores > last) & (best > entered)
        missing = _missing(mine, candidates.boxes[certain], scores[certain], chosen.iou)
        if missing.any():
            score = scores[certain][missing].max()
            return f"{task.count(int(missing.sum()))} of torch's, the best of score {score:.3g}, not in ONNX Runtime"
    return ""


def _features(boxes: Array, scores: Array, joints: Array) -> Array:
    """Returns one row per prediction, divided by the tolerances: rows agree where no column differs by more than 1."""
    parts = (boxes / PX, scores[:, None] / SCORE, joints[..., :2].reshape(len(boxes), -1) / PX, joints[..., 2] / SCORE)
    return np.concatenate(parts, axis=1).astype(np.float64)


def _unknown(found: Predictions, candidates: Candidates, anchors: Array, scores: Array, task: Task) -> str:
    """Names the prediction farthest from its nearest candidate, where that is farther than rounding explains."""
    if not len(found):
        return ""
    if not len(anchors):
        return f"{task.count(len(found))} in ONNX Runtime, none in torch"
    # Detections have no joints: their points are the corners of the boxes.
    width = candidates.joints.shape[1]
    joints = np.concatenate([found.points[:, :width], found.point_scores[:, :width, None]], axis=2)
    mine = _features(found.boxes, found.scores, joints)
    theirs = _features(candidates.boxes[anchors], scores[anchors], candidates.joints[anchors])
    apart = np.stack([np.abs(theirs - row).max(axis=1) for row in mine])  # (N, A)
    apart[~np.isfinite(apart)] = np.inf
    nearest = apart.argmin(axis=1)
    worst = int(apart.min(axis=1).argmax())
    if apart[worst, nearest[worst]] <= 1:
        return ""
    gap = np.abs(mine[worst] - theirs[nearest[worst]])
    is_score = np.zeros(len(gap), bool)
    is_score[4] = is_score[5 + 2 * width :] = True
    return (
        f"{task.one} {worst} of ONNX Runtime's differs from the nearest of torch's by up to"
        f" {gap[~is_score].max() * PX:.2g} px and {gap[is_score].max() * SCORE:.2g} score"
        f" (allowed {PX} px, {SCORE} score)"
    )


def _overlapping(found: Predictions, iou: float, task: Task) -> str:
    if len(found) < 2:
        return ""
    highest = float(np.triu(box_iou(found.boxes, found.boxes), 1).max())
    if highest <= iou + _TIE_IOU:
        return ""
    return f"two {task.many} of ONNX Runtime's overlap with IoU {highest:.3f}, over the threshold {iou:g}"


def _missing(found: Predictions, boxes: Array, scores: Array, iou: float) -> npt.NDArray[np.bool_]:
    """Returns which candidates are neither predictions nor suppressed by one that is as good."""
    if not len(found):
        return np.ones(len(boxes), bool)
    overlap = box_iou(boxes, found.boxes)  # (A, N)
    as_good = found.scores[None] >= scores[:, None] - _TIE
    missing: npt.NDArray[np.bool_] = np.logical_not(((overlap > iou - _TIE_IOU) & as_good).any(axis=1))
    return missing
