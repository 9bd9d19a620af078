"""The description stored with a model file, and the letterbox of an image.

Shape letters used everywhere: B batch, A anchors, N kept predictions, M rows of a flat output, J joints, H W network
input, K classes. Boxes are xyxy, images are RGB, coordinates are pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from .choices import Precision
from .documents import Count, Name, Share, Side, convert, parse, to_json
from .errors import RunnerError, UsageError, first_line
from .skeleton import Skeleton
from .tasks import TASKS

# The key of the ONNX metadata entry that holds a ModelSpec as JSON, and the version of that JSON.
METADATA_KEY = "trt_pose"
ACCURACY_KEY = "trt_pose_accuracy"  # metadata key of the measured accuracy, as JSON
DIGEST_KEY = "trt_pose_sha256"  # metadata key of the SHA-256 of the graph and its weights
SPEC_VERSION = 1

BatchSize = Annotated[int, Meta(ge=1, le=65_536)]


# What the description of a file says of images that were noise.
ON_NOISE = "images of noise"


@dataclass(frozen=True)
class Normalization:
    """The normalization of a uint8 RGB image for the network: ``(channels(x) - mean) / std``.

    Attributes:
        channels: channel order of the network, ``"RGB"`` or ``"BGR"``.
        mean: mean of each channel *in that order*, in grey levels 0..255.
        std: standard deviation of each channel *in that order*, in grey levels 0..255.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)


@dataclass(frozen=True)
class InputSpec:
    """The network input, and how an image is converted to it.

    Attributes:
        name: tensor name in the file.
        batch: fixed batch size; None when it is symbolic.
        height: input height, px; the traced height if the file takes images of any size.
        width: input width, px; the traced width if the file takes images of any size.
        channels: number of channels.
        dtype: element type, ``uint8``, ``float32`` or ``float16``.
        resize: ``longest_side`` keeps the aspect ratio, ``stretch`` does not. Files that take images of any size use
            ``shortest_side`` (the shorter side becomes the smaller of ``resize_to``, both are then rounded to multiples
            of ``divisor``) or ``none``.
        resize_to: (height, width) that the image is resized to fit before padding, px.
        divisor: both sides are multiples of it after ``shortest_side``.
        padding: ``bottom_right`` or ``center``.
        pad_value: grey level of the padding.
        normalization: the normalization the network was trained with.
        normalized_in_graph: True when the file takes RGB in 0..``white`` and applies ``normalization`` itself.
        white: the input value of white: 255, or 1 for floats in 0..1.
        custom_preprocessing: True when the file contains a user-defined preprocessing module, whose expected input is
            unknown.
    """

    name: Name = "input"
    batch: BatchSize | None = 1
    height: Side = 640
    width: Side = 640
    channels: Annotated[int, Meta(ge=1, le=1024)] = 3
    dtype: str = "uint8"
    resize: str = "longest_side"
    resize_to: tuple[Side, Side] = (640, 640)
    divisor: Side = 1
    padding: str = "bottom_right"
    pad_value: int = 127
    normalization: Normalization = field(default_factory=Normalization)
    normalized_in_graph: bool = True
    white: int = 255
    custom_preprocessing: bool = False

    def __post_init__(self) -> None:
        resizes = ("longest_side", "stretch", "shortest_side", "none")
        if self.dtype not in ("uint8", "float32", "float16") or self.white not in (1, 255):
            raise UsageError(
                f"input policy: got dtype {self.dtype!r} and white {self.white}, expected uint8, float32 or float16;"
                " 1 or 255."
            )
        if self.resize not in resizes or self.padding not in ("bottom_right", "center"):
            raise UsageError(
                f"input policy: got resize={self.resize!r}, padding={self.padding!r}, expected one of"
                f" {', '.join(resizes)}; bottom_right or center. Correct the policy."
            )
        fits = all(0 < inner <= outer for inner, outer in zip(self.resize_to, (self.height, self.width), strict=True))
        if not fits or not all(self.normalization.std) or not 0 <= self.pad_value <= 255 or self.divisor < 1:
            raise UsageError(
                f"input policy: got images resized to {self.resize_to} in an input of {self.height} x {self.width},"
                f" padding {self.pad_value}, std {self.normalization.std}; expected them to fit, 0..255, no zero."
                " Correct the policy."
            )

    @property
    def takes_any_size(self) -> bool:
        """Whether the height and width of the input are symbolic in the file."""
        return self.resize in ("shortest_side", "none")

    def with_size(self, height: int, width: int) -> InputSpec:
        """Returns the same policy for another input size, px; ``resize_to`` is scaled in proportion."""
        filled = (round(height * self.resize_to[0] / self.height), round(width * self.resize_to[1] / self.width))
        return replace(self, height=height, width=width, resize_to=filled)


@dataclass(frozen=True)
class OutputSpec:
    """The outputs of a model file; see the output contract in CONTRIBUTING.md.

    Attributes:
        format: ``batch``, ``flat``, ``rcnn`` (torchvision's names, one image), ``raw`` (decoded heads of all anchors,
            without NMS) or ``custom`` (the file ends in a user-defined module).
        names: tensor names, in order.
        confidence_threshold: score threshold applied in the file; None for ``raw``.
        nms_threshold: IoU threshold of the NMS in the file; None for ``raw``.
        max_predictions_per_image: maximum number of predictions per image, N.
        num_pre_nms_predictions: number of candidates that enter NMS.
    """

    format: Name = "batch"
    names: tuple[Name, ...] = ()
    confidence_threshold: Share | None = None
    nms_threshold: Share | None = None
    max_predictions_per_image: Count | None = None
    num_pre_nms_predictions: Count | None = None


@dataclass(frozen=True)
class ModelSpec:
    """The description a runner needs of a model file, stored inside it (ONNX) or beside it (engine).

    Attributes:
        model: model name.
        task: ``pose``, ``detection``, or ``custom`` for a converted module.
        input: see :class:`InputSpec`.
        output: see :class:`OutputSpec`.
        skeleton: joints of a pose model.
        class_names: classes of a detection model.
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8+fp16``.
        quantization: how the precision was reached (method, images, layers kept); empty for ``fp32``.
        weights: origin of the weights: ``coco_pose``, a file name, ``seed 0``.
        weights_sha256: digest of the state dict (names, shapes, values).
        plugins_required: operators a runtime must provide beyond ONNX.
        generator: program and version that wrote the file.
        version: version of this description.
    """

    model: Name
    task: str = "pose"
    input: InputSpec = field(default_factory=InputSpec)
    output: OutputSpec = field(default_factory=OutputSpec)
    skeleton: Skeleton = field(default_factory=lambda: Skeleton(()))
    class_names: tuple[Name, ...] = ()
    precision: str = "fp32"
    quantization: Name = ""
    weights: Name = ""
    weights_sha256: Name = ""
    plugins_required: tuple[Name, ...] = ()
    generator: Name = ""
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if self.task not in (*TASKS, "custom"):
            raise UsageError(f"task: got {self.task!r}, expected {', '.join(TASKS)} or custom.")
        if self.precision not in {member.value for member in Precision}:
            raise UsageError(f"precision: got {self.precision!r}, expected {', '.join(Precision)}.")

    def to_json(self, indent: int | None = None) -> str:
        return to_json(self, indent)

    @property
    def calibrated_on_noise(self) -> bool:
        """Whether the ranges of INT8 come from noise, so that the accuracy is likely ruined."""
        return ON_NOISE in self.quantization

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str | Path = "model file") -> ModelSpec:
        """Reads the description from the metadata of an ONNX file. Raises RunnerError when there is none."""
        if METADATA_KEY not in metadata:
            raise RunnerError(
                f"opening {origin}: it holds no trt_pose description (joints, thresholds, image policy)."
                " Export it with trt-pose, or give another toolkit's file one with trt-pose attach."
            )
        return cls.from_json(metadata[METADATA_KEY], origin)

    @classmethod
    def from_json(cls, text: str, origin: str | Path = "model file") -> ModelSpec:
        """Reads the output of :meth:`to_json`. Raises RunnerError that names ``origin`` when it is not valid."""
        try:
            record = parse(text)
            version = record["version"] if isinstance(record, dict) else None
            if not isinstance(version, int):
                raise ValueError("it has no version")
            if version > SPEC_VERSION:
                raise RunnerError(
                    f"reading the description in {origin}: version {version}, this trt_pose knows up to"
                    f" {SPEC_VERSION}. Upgrade trt-pose."
                )
            return convert(record, cls)
        except (ValueError, KeyError) as error:
            raise RunnerError(
                f"reading the description in {origin}: not a trt_pose description ({first_line(error)})."
                " Export the model again with trt-pose."
            ) from error


@dataclass(frozen=True)
class Letterbox:
    """The placement of one image in the network input.

    A source point (x, y) lies at ``(x * scale_x + left, y * scale_y + top)`` in the network input.

    Attributes:
        scale_x: horizontal resize factor.
        scale_y: vertical resize factor; equal to ``scale_x`` when the aspect ratio is kept.
        left: padding on the left, px of the network input.
        top: padding at the top, px of the network input.
    """

    scale_x: float = 1.0
    scale_y: float = 1.0
    left: int = 0
    top: int = 0
