"""Cards of PP-YOLOE S, M, L, X."""

from __future__ import annotations

from ...spec import InputSpec, Normalization
from ..card import Card
from ..processing import IMAGENET_MEAN, IMAGENET_STD, coco_detection

# ImageNet's numbers, applied to the channels in BGR order, as the published weights were trained.
PROCESSING = coco_detection(
    InputSpec(
        height=640,
        width=640,
        resize="stretch",
        resize_to=(640, 640),
        normalization=Normalization("BGR", IMAGENET_MEAN, IMAGENET_STD),
    ),
    confidence=0.5,
    iou=0.65,
)
_COUNTS = {"classes": 80}


def _card(size: str, parameters: int, gmacs: float) -> Card:
    name = f"ppyoloe_{size}"
    return Card(name, "detection", "pp_yoloe", parameters, gmacs, PROCESSING, _COUNTS, ("coco",), "Apache-2.0")


CARDS = (
    _card("s", 8_084_588, 8.634),
    _card("m", 24_134_892, 24.888),
    _card("l", 54_078_556, 54.939),
    _card("x", 102_331_484, 103.166),
)
