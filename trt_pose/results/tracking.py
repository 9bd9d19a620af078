"""Tracking: ids that stay with a person or object from frame to frame, by the package ``trackers``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..choices import Tracker
from ..images.reading import Clip, Unreadable
from ..optional import require
from .detections import Result

_RATE = 30.0  # of sequences that do not say theirs, frames per second
# The class of each tracker, and its parameters that are the score from which a prediction may begin a track.
_TRACKERS = {
    Tracker.BYTETRACK: ("ByteTrackTracker", ("track_activation_threshold", "high_conf_det_threshold")),
    Tracker.OCSORT: ("OCSORTTracker", ("high_conf_det_threshold",)),
    Tracker.SORT: ("SORTTracker", ("track_activation_threshold",)),
}
_SURE = 0.5  # that score, where the predictor's threshold is lower


class Tracks:
    """Follows predictions through the frames of a sequence: each video has its own, all pictures are one.

    Args:
        tracker: ``bytetrack`` (Y. Zhang et al., ECCV 2022), ``ocsort`` (J. Cao et al., CVPR 2023) or ``sort``
            (A. Bewley et al., ICIP 2016), which go by boxes.
        confidence: threshold of the predictor.

    Raises:
        MissingDependencyError: trackers is not installed.
        UsageError: the tracker is unknown.
    """

    def __init__(self, tracker: str = "bytetrack", confidence: float = 0.0) -> None:
        self._kind = Tracker.parse(tracker, "track")
        self._module = require("trackers", "tracking")
        self._arrays = require("supervision", "tracking").Detections
        self._sure = max(confidence, _SURE)
        self._clip: Clip | None = None
        self._tracker: Any = None

    def follow(self, items: Iterable[Result | Unreadable]) -> Iterator[Result | Unreadable]:
        """Yields the results with ids, in the order of the frames."""
        for item in items:
            yield item if isinstance(item, Unreadable) else self.update(item)

    def update(self, result: Result) -> Result:
        """Returns the result of the next frame with ids: one for each prediction.

        The id is -1 where there is none: an id is given when somebody is seen for the second time.
        """
        if self._tracker is None or result.clip != self._clip:
            self._clip, self._tracker = result.clip, self._start(result.clip)
        found = result.prediction
        boxes = found.boxes
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        given = self._arrays(
            xyxy=boxes[rows].astype(np.float64),
            confidence=found.scores[rows].astype(np.float64),
            class_id=None if found.kinds is None else found.kinds[rows],
            data={"row": rows},
        )
        followed = self._tracker.update(given, timestamp=result.time_s)
        ids = np.full(len(found), -1, np.int64)
        if len(followed):
            ids[followed.data["row"]] = followed.tracker_id
        tracked: Any = replace(found, ids=ids)
        return result.with_prediction(tracked)

    def _start(self, clip: Clip | None) -> Any:
        rate = float(clip.rate) if clip is not None and clip.rate else _RATE
        name, scores = _TRACKERS[self._kind]
        return getattr(self._module, name)(
            frame_rate=rate, minimum_consecutive_frames=1, **dict.fromkeys(scores, self._sure)
        )
