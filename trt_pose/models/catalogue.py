"""Descriptions of the supported models; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import Models
from ..errors import UsageError

_NAS_LICENCE = "non-commercial (YOLO-NAS licence)"
_PP_LICENCE = "Apache-2.0"
_POSE_LICENCE = "non-commercial (YOLO-NAS-POSE licence)"
_RCNN_LICENCE = "torchvision's terms"
_DEMO_LICENCE = "Apache-2.0, in the package"
# Text form of the numbers in processing.py (a test compares the two) and, for Keypoint R-CNN, of torchvision's.
_POSE_INPUT = "longest side to 640, padded below and right with 127, BGR / 255"
_NAS_INPUT = "longest side to 636, padded around with 114, RGB / 255"
_PP_INPUT = "stretched to 640 x 640, BGR, ImageNet mean and std"
_DEMO_INPUT = "longest side to 320, padded below and right with 127, BGR / 255"
_RCNN_INPUT = "any size; resized inside, shorter side to 800"


@dataclass(frozen=True)
class ModelInfo:
    """One supported model.

    Attributes:
        name: name of the model.
        task: ``pose`` or ``detection``.
        parameters: number of parameters of the published network (17 joints, 80 classes), un-fused, without unused
            placeholders.
        gmacs: multiply-accumulates at 640 x 640, in 10^9; for Keypoint R-CNN torchvision's figure, at about 800 x 1088.
        input: description of how an image is converted to the input.
        weights: names of the published weights.
        weights_licence: licence of the weights; the code is Apache-2.0.
        packaged: file in ``trt_pose/assets`` with the first of ``weights``, the default weights of the model; empty
            when the weights are downloaded.
    """

    name: str
    task: str
    parameters: int
    gmacs: float
    input: str
    weights: tuple[str, ...]
    weights_licence: str
    packaged: str = ""


MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("yolo_nas_pose_n", "pose", 7_165_323, 9.369, _POSE_INPUT, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_s", "pose", 16_050_444, 19.11, _POSE_INPUT, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_m", "pose", 40_886_734, 50.998, _POSE_INPUT, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_l", "pose", 56_919_508, 72.475, _POSE_INPUT, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_s", "detection", 12_878_304, 15.899, _NAS_INPUT, ("coco",), _NAS_LICENCE),
        ModelInfo("yolo_nas_m", "detection", 33_861_346, 43.88, _NAS_INPUT, ("coco",), _NAS_LICENCE),
        ModelInfo("yolo_nas_l", "detection", 44_529_448, 59.917, _NAS_INPUT, ("coco",), _NAS_LICENCE),
        ModelInfo("ppyoloe_s", "detection", 8_084_588, 8.634, _PP_INPUT, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_m", "detection", 24_134_892, 24.888, _PP_INPUT, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_l", "detection", 54_078_556, 54.939, _PP_INPUT, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_x", "detection", 102_331_484, 103.166, _PP_INPUT, ("coco",), _PP_LICENCE),
        ModelInfo("keypointrcnn_resnet50_fpn", "pose", 59_137_258, 137.42, _RCNN_INPUT, ("coco",), _RCNN_LICENCE),
        ModelInfo("demo", "pose", 2_163_539, 3.258, _DEMO_INPUT, ("synthetic",), _DEMO_LICENCE, "demo.safetensors"),
    )
}


def look_up(name: str | Models) -> ModelInfo:
    """Returns the entry for ``name``. Raises UsageError, which suggests the nearest name, when there is none."""
    import difflib

    key = str(name).lower()
    if key not in MODELS:
        near = difflib.get_close_matches(key, MODELS, 1)
        hint = f"Did you mean {near[0]}?" if near else "See trt-pose models."
        raise UsageError(f"looking up a model: got {str(name)!r}, expected one of {', '.join(MODELS)}. {hint}")
    return MODELS[key]
