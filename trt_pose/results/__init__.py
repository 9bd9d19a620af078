"""Results: poses and detections of an image, their comparison and their output."""

from __future__ import annotations

from ..tasks import DETECTION, POSE, find_task
from .detections import Detections
from .poses import Poses
from .predictions import Predictions

_PREDICTIONS: dict[str, type[Predictions]] = {POSE.name: Poses, DETECTION.name: Detections}


def predictions_of(task: str) -> type[Predictions]:
    """Returns the class of a task's predictions. Raises RunnerError for a task without predictions."""
    return _PREDICTIONS[find_task(task).name]
