"""Cards of YOLO-NAS-Pose N, S, M, L, and of the demonstration model."""

from __future__ import annotations

from dataclasses import replace

from ..card import Card
from ..processing import COCO_POSE, pose_defaults

_COUNTS = {"joints": 17}
_LICENCE = "non-commercial (YOLO-NAS-POSE licence)"


def _card(size: str, parameters: int, gmacs: float) -> Card:
    name = f"yolo_nas_pose_{size}"
    processing = pose_defaults(17)
    return Card(name, "pose", "yolo_nas_pose", parameters, gmacs, processing, _COUNTS, ("coco_pose",), _LICENCE)


CARDS = (
    _card("n", 7_165_323, 9.369),
    _card("s", 16_050_444, 19.11),
    _card("m", 40_886_734, 50.998),
    _card("l", 56_919_508, 72.475),
)
DEMO = Card(
    name="demo",
    task="pose",
    family="yolo_nas_pose",
    parameters=2_163_539,
    gmacs=3.258,
    processing=replace(COCO_POSE, input=COCO_POSE.input.with_size(320, 320)),
    counts=_COUNTS,
    weights=("synthetic",),
    licence="Apache-2.0, in the package",
    packaged="demo.safetensors",
)
