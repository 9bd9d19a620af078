"""The supported models. Needs no torch.

To add a family, add a folder with ``card.py`` (:class:`Card`) and ``network.py`` (``build``, ``count_outputs``), and
its cards here.
"""

from __future__ import annotations

import difflib

from ..choices import Models
from ..errors import UsageError
from .card import Card
from .keypoint_rcnn.card import CARDS as KEYPOINT_RCNN
from .pp_yoloe.card import CARDS as PP_YOLOE
from .yolo_nas.card import CARDS as YOLO_NAS
from .yolo_nas_pose.card import CARDS as YOLO_NAS_POSE, DEMO

MODELS: dict[str, Card] = {card.name: card for card in (*YOLO_NAS_POSE, *YOLO_NAS, *PP_YOLOE, *KEYPOINT_RCNN, DEMO)}


def look_up(name: str | Models) -> Card:
    """Returns the card of a model. Raises UsageError that names the nearest model."""
    key = str(name).lower()
    if key not in MODELS:
        near = difflib.get_close_matches(key, MODELS, 1)
        hint = f"Did you mean {near[0]}?" if near else "See trt-pose models."
        raise UsageError(f"looking up a model: got {str(name)!r}, expected one of {', '.join(MODELS)}. {hint}")
    return MODELS[key]
