"""Enums of the accepted names: models, backends, precisions, calibration methods, output formats."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

from .errors import UsageError

_E = TypeVar("_E", bound="StrEnum")


class StrEnum(str, Enum):
    """An enum whose members are strings; :meth:`parse` accepts a member or its string."""

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def parse(cls: type[_E], value: str | _E, parameter: str) -> _E:
        """Returns the member for ``value``, a member or a string in any case.

        Args:
            value: what was given.
            parameter: name of the parameter, for the message.

        Raises:
            UsageError: no member has this value; the message lists the accepted ones.
        """
        try:
            return cls(str(value.value if isinstance(value, Enum) else value).lower())
        except ValueError:
            words = ", ".join(member.value for member in cls)
            raise UsageError(f"{parameter}: got {value!r}, expected one of {words}.") from None


class Models(StrEnum):
    """Names of the supported models: super-gradients' names, torchvision's for Keypoint R-CNN, and ``demo``."""

    YOLO_NAS_POSE_N = "yolo_nas_pose_n"
    YOLO_NAS_POSE_S = "yolo_nas_pose_s"
    YOLO_NAS_POSE_M = "yolo_nas_pose_m"
    YOLO_NAS_POSE_L = "yolo_nas_pose_l"
    YOLO_NAS_S = "yolo_nas_s"
    YOLO_NAS_M = "yolo_nas_m"
    YOLO_NAS_L = "yolo_nas_l"
    PP_YOLOE_S = "ppyoloe_s"
    PP_YOLOE_M = "ppyoloe_m"
    PP_YOLOE_L = "ppyoloe_l"
    PP_YOLOE_X = "ppyoloe_x"
    KEYPOINT_RCNN = "keypointrcnn_resnet50_fpn"
    DEMO = "demo"


class ExportTargetBackend(StrEnum):
    """The runtime an exported file is made for."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class ExportQuantizationMode(StrEnum):
    """The reduced precision of an exported file."""

    INT8 = "int8"
    FP16 = "fp16"


class Tracker(StrEnum):
    """How predictions are followed through the frames of a video."""

    BYTETRACK = "bytetrack"
    OCSORT = "ocsort"
    SORT = "sort"


class Precision(StrEnum):
    """The precision the network computes in; ``int8+fp16`` uses FP16 where INT8 does not apply."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FP16 = "int8+fp16"

    @property
    def has_int8(self) -> bool:
        return self in (Precision.INT8, Precision.INT8_FP16)

    @property
    def has_fp16(self) -> bool:
        return self in (Precision.FP16, Precision.INT8_FP16)


class CalibrationMethod(StrEnum):
    """The method that derives a tensor's INT8 range from the histogram of its values (super-gradients' names)."""

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MSE = "mse"
    MINMAX = "minmax"


class DetectionOutputFormatMode(StrEnum):
    """The output layout: padded per-image arrays (``batch``), or one row per detection over all images (``flat``)."""

    BATCH_FORMAT = "batch"
    FLAT_FORMAT = "flat"


class BuildPrecision(StrEnum):
    """The precision asked of an engine; ``int8`` and ``best`` have FP16 where INT8 does not apply."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FP16 = "int8+fp16"
    BEST = "best"


class Int8Mode(StrEnum):
    """Where INT8 comes from: quantizers in the graph, or TensorRT 10's own calibrator."""

    EXPLICIT = "explicit"
    IMPLICIT = "implicit"


class Calibrator(StrEnum):
    """Who finds the ranges of an implicit INT8 build: this package, or TensorRT 10 from the same images."""

    OURS = "ours"
    TENSORRT = "tensorrt"


class HeadName(StrEnum):
    """Layouts of the outputs of other toolkits' pose models, which ``attach`` reads."""

    YOLOV8_POSE = "yolov8-pose"
    YOLOV8_POSE_XY = "yolov8-pose-xy"
    YOLO_END2END_POSE = "yolo-end2end-pose"
    YOLO_END2END_POSE_XY = "yolo-end2end-pose-xy"
    MMDEPLOY_POSE = "mmdeploy-pose"
    YOLO_NAS_POSE = "yolo-nas-pose"
    YOLO_NAS_POSE_BATCH = "yolo-nas-pose-batch"
    DECODED = "decoded"


class SceneName(StrEnum):
    """The people in synthetic images: one to three large ones, or up to eight of all sizes."""

    SPARSE = "sparse"
    CROWDED = "crowded"


class ScoreLoss(StrEnum):
    """The loss of the scores in training."""

    FOCAL = "focal"
    VARIFOCAL = "varifocal"
    BCE = "bce"


class TrainPrecision(StrEnum):
    """The precision of the forward pass in training."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def either(name: str, value: Any, alias: str, other: Any) -> Any:
    """Returns an option that may be given under two names. Raises UsageError when both are given."""
    if value is not None and other is not None:
        raise UsageError(f"{alias}: it is short for {name}, and both are given. Leave one out.")
    return other if value is None else value
