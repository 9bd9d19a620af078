"""Card of torchvision's Keypoint R-CNN."""

from __future__ import annotations

from ...skeleton import COCO
from ...spec import InputSpec, Normalization
from ..card import Card
from ..processing import Processing

# The first digits of the file's SHA-256, which torchvision's file name ends in.
_SHA256 = "fc266e95"
CARDS = (
    Card(
        name="keypointrcnn_resnet50_fpn",
        task="pose",
        family="keypoint_rcnn",
        parameters=59_137_258,
        gmacs=137.42,  # torchvision's figure, at about 800 x 1088
        processing=Processing(
            InputSpec(resize="none", normalization=Normalization("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))),
            skeleton=COCO,
            confidence=0.5,
            iou=0.5,
            max_candidates=1000,
            max_predictions=100,
        ),
        counts={"joints": 17, "classes": 2},
        weights=("coco",),
        licence="torchvision's terms",
        remote=("https://download.pytorch.org/models", f"keypointrcnn_resnet50_fpn_coco-{_SHA256}.pth"),
        remote_sha256=_SHA256,
        sizes_itself=True,
        input_note="; resized inside, shorter side to 800",
    ),
)
