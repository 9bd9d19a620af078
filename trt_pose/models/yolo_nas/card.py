"""Cards of YOLO-NAS S, M, L."""

from __future__ import annotations

from ...spec import InputSpec, Normalization
from ..card import Card
from ..processing import coco_detection

PROCESSING = coco_detection(
    InputSpec(
        height=640,
        width=640,
        resize="longest_side",
        resize_to=(636, 636),
        padding="center",
        pad_value=114,
        normalization=Normalization("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    ),
    confidence=0.25,
    iou=0.7,
)
_COUNTS = {"classes": 80}
_LICENCE = "non-commercial (YOLO-NAS licence)"


def _card(size: str, parameters: int, gmacs: float) -> Card:
    name = f"yolo_nas_{size}"
    return Card(name, "detection", "yolo_nas", parameters, gmacs, PROCESSING, _COUNTS, ("coco",), _LICENCE)


CARDS = (_card("s", 12_878_304, 15.899), _card("m", 33_861_346, 43.88), _card("l", 44_529_448, 59.917))
