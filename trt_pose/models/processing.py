"""The processing defaults of a model (joints or classes, thresholds, image policy), also read from checkpoints.

The step names parsed here (``KeypointsLongestMaxSizeRescale`` ...) are those that super-gradients stores in the
``processing_params`` of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CheckpointError
from ..skeleton import COCO, COCO_CLASSES, Skeleton
from ..spec import InputSpec, Normalization

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Processing:
    """The processing defaults of a model.

    Attributes:
        input: image policy.
        skeleton: joints of a pose model.
        class_names: classes of a detection model.
        confidence: score threshold, 0..1.
        iou: IoU threshold of NMS, 0..1.
        max_candidates: maximum number of candidates before NMS.
        max_predictions: maximum number of predictions after NMS.
    """

    input: InputSpec
    skeleton: Skeleton = field(default_factory=lambda: Skeleton(()))
    class_names: tuple[str, ...] = ()
    confidence: float = 0.5
    iou: float = 0.7
    max_candidates: int = 300
    max_predictions: int = 100

    def with_joints(self, num_joints: int) -> Processing:
        """The same processing for another number of joints, with the known joint set of that size."""
        return replace(self, skeleton=Skeleton.for_joint_count(num_joints))

    def with_classes(self, num_classes: int) -> Processing:
        """The same processing for another number of classes."""
        if num_classes == len(self.class_names):
            return self
        return replace(self, class_names=tuple(f"class {index}" for index in range(num_classes)))

    def describe_input(self) -> str:
        """How an image becomes the input of the network, in words."""
        policy, normalization = self.input, self.input.normalization
        if policy.takes_any_size:
            return "any size"
        if normalization.mean == IMAGENET_MEAN and normalization.std == IMAGENET_STD:
            pixels = f"{normalization.channels}, ImageNet mean and std"
        else:
            pixels = f"{normalization.channels} / {normalization.std[0]:g}"
        height, width = policy.resize_to
        if policy.resize == "stretch":
            return f"stretched to {height} x {width}, {pixels}"
        where = "around" if policy.padding == "center" else "below and right"
        return f"longest side to {max(height, width)}, padded {where} with {policy.pad_value}, {pixels}"


POSE_INPUT = InputSpec(
    height=640,
    width=640,
    resize="longest_side",
    resize_to=(640, 640),
    padding="bottom_right",
    pad_value=127,
    normalization=Normalization("BGR", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
)
COCO_POSE = Processing(POSE_INPUT, COCO)


def pose_defaults(num_joints: int) -> Processing:
    """Returns the published processing of YOLO-NAS-Pose, with the joint set of this size."""
    return COCO_POSE.with_joints(num_joints)


def coco_detection(policy: InputSpec, confidence: float, iou: float) -> Processing:
    """Returns the processing of a detection family published for COCO's 80 classes."""
    return Processing(
        policy,
        class_names=COCO_CLASSES,
        confidence=confidence,
        iou=iou,
        max_candidates=1024,
        max_predictions=300,
    )


def from_checkpoint(params: Mapping[str, Any], base: Processing, origin: str) -> Processing:
    """Returns ``base`` updated from a checkpoint's ``processing_params``; absent entries keep the value of ``base``.

    Raises:
        CheckpointError: an image step is unknown, or a value is not valid. Ignoring it would shift or recolour images.
    """
    try:
        return replace(
            base,
            input=_read_steps(params.get("image_processor"), base.input, origin),
            skeleton=base.skeleton if base.class_names else _read_skeleton(params, base.skeleton),
            class_names=_read_classes(params, base.class_names),
            confidence=_share(params.get("conf"), base.confidence),
            iou=_share(params.get("iou"), base.iou),
            max_candidates=int(_number(params.get("pre_nms_max_predictions"), base.max_candidates)),
            max_predictions=int(_number(params.get("post_nms_max_predictions"), base.max_predictions)),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"reading processing_params of {origin}: {type(error).__name__}: {error}. Remove the entry from the"
            " checkpoint to use the published defaults."
        ) from error


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)  # 0.0 is kept


def _share(value: Any, default: float) -> float:
    share = _number(value, default)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a threshold of {share}")
    return share


def _read_classes(params: Mapping[str, Any], base: tuple[str, ...]) -> tuple[str, ...]:
    names = params.get("class_names")
    return tuple(map(str, names)) if names is not None and len(names) == len(base) else base


def _read_skeleton(params: Mapping[str, Any], base: Skeleton) -> Skeleton:
    """Applies the entries of a checkpoint over ``base``; its lists hold NumPy's or text's numbers as it comes."""
    names = params.get("joint_names") or params.get("keypoint_names") or params.get("class_names")
    # A one-class list is the class ("person"), not the joints.
    own_names = names is not None and len(names) == base.num_joints
    edges, joint_colors, edge_colors = (params.get(key) for key in ("edge_links", "keypoint_colors", "edge_colors"))
    kept = base.edge_colors if edges is None else ()
    return Skeleton(
        names=tuple(str(name) for name in names or ()) if own_names else base.names,
        edges=base.edges if edges is None else tuple((int(first), int(second)) for first, second in edges),
        flip_pairs=base.flip_pairs,
        sigmas=base.sigmas,
        joint_colors=() if joint_colors is None else _colors(joint_colors),
        edge_colors=kept if edge_colors is None else _colors(edge_colors),
    )


def _colors(values: Any) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(red), int(green), int(blue)) for red, green, blue in values)


@dataclass
class _Pipeline:
    """What the image steps read so far amount to: the order of the channels, a mean, a divisor and a geometry."""

    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    geometry: dict[str, Any] = field(default_factory=dict)

    def reverse_channels(self, _: Mapping[str, Any]) -> None:
        self.channels = "BGR"

    def standardize(self, options: Mapping[str, Any]) -> None:
        scale = float(options.get("max_value", 255))
        self.std = _triple(value * scale for value in self.std)

    def normalize(self, options: Mapping[str, Any]) -> None:
        means, stds = options["mean"], options["std"]
        self.mean = _triple(m + float(x) * s for m, x, s in zip(self.mean, means, self.std, strict=True))
        self.std = _triple(s * float(x) for s, x in zip(self.std, stds, strict=True))

    def fit(self, options: Mapping[str, Any]) -> None:
        self.geometry.update(resize="longest_side", resize_to=_size(options["output_shape"]))

    def stretch(self, options: Mapping[str, Any]) -> None:
        self.geometry.update(resize="stretch", resize_to=_size(options["output_shape"]))

    def pad_below_and_right(self, options: Mapping[str, Any]) -> None:
        self._pad("bottom_right", options)

    def pad_around(self, options: Mapping[str, Any]) -> None:
        self._pad("center", options)

    def _pad(self, padding: str, options: Mapping[str, Any]) -> None:
        height, width = _size(options["output_shape"])
        self.geometry.update(
            padding=padding, pad_value=_grey(options.get("pad_value", 127)), height=height, width=width
        )

    def permute(self, _: Mapping[str, Any]) -> None:
        """The layout is always (3, H, W) here."""


# super-gradients' names of the steps, without "Keypoints" or "Detection" in front.
_STEPS: dict[str, Callable[[_Pipeline, Mapping[str, Any]], None]] = {
    "ReverseImageChannels": _Pipeline.reverse_channels,
    "StandardizeImage": _Pipeline.standardize,
    "NormalizeImage": _Pipeline.normalize,
    "LongestMaxSizeRescale": _Pipeline.fit,
    "Rescale": _Pipeline.stretch,
    "BottomRightPadding": _Pipeline.pad_below_and_right,
    "CenterPadding": _Pipeline.pad_around,
    "ImagePermute": _Pipeline.permute,
}


def _read_steps(processor: Any, base: InputSpec, origin: str) -> InputSpec:
    steps = list(_flatten(processor))
    if not steps:
        return base
    pipeline = _Pipeline()
    for name, options in steps:
        apply = _STEPS.get(name.removeprefix("Keypoints").removeprefix("Detection"))
        if apply is None:
            raise CheckpointError(
                f"reading processing_params of {origin}: unknown image step {name!r}. Remove image_processor from the"
                " checkpoint to use the published steps, or ask for the step to be supported."
            )
        apply(pipeline, options)
    geometry = pipeline.geometry
    if "resize_to" in geometry and "height" not in geometry:  # no padding: the input is the resized image
        geometry["height"], geometry["width"] = geometry["resize_to"]
    return replace(base, normalization=Normalization(pipeline.channels, pipeline.mean, pipeline.std), **geometry)


def _flatten(processor: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yields (name, options) pairs of nested ``{"ComposeProcessing": {"processings": [{name: options}, ...]}}``."""
    if processor is None:
        return
    for entry in [processor] if isinstance(processor, Mapping) else processor:
        for name, options in entry.items():
            if name == "ComposeProcessing":
                yield from _flatten(options["processings"])
            else:
                yield name, options or {}


def _size(shape: Any) -> tuple[int, int]:
    height, width = (shape, shape) if isinstance(shape, int) else shape
    return int(height), int(width)


def _grey(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)
