"""The description of a model file, and the letterbox of an image.

Shape letters used everywhere: B batch, A anchors, N kept predictions, M rows of a flat output, J joints, H W network
input, K classes. Boxes are xyxy, images are RGB, coordinates are pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import RunnerError, UsageError
from .skeleton import Skeleton

# The key of the ONNX metadata entry that holds a ModelSpec as JSON, and the version of that JSON.
METADATA_KEY = "trt_pose"
ACCURACY_KEY = "trt_pose_accuracy"  # what a file was measured at, as JSON
SPEC_VERSION = 1


@dataclass(frozen=True)
class Normalization:
    """Photometric step between a uint8 RGB image and the network: ``(channels(x) - mean) / std``.

    Attributes:
        channels: channel order the network wants, ``"RGB"`` or ``"BGR"``.
        mean, std: per channel *in that order*, in grey levels 0..255.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)


@dataclass(frozen=True)
class InputSpec:
    """The network input and how an image becomes it.

    Attributes:
        name: tensor name in the file.
        batch: fixed batch size, or None when symbolic.
        height, width: input size, px; of a file that takes images of any size, the size it is traced with.
        channels: number of channels.
        dtype: ``uint8`` or ``float32`` (``float16``).
        resize: ``longest_side`` keeps the aspect ratio, ``stretch`` does not. Files that take any size have
            ``shortest_side``, to the smaller of ``resize_to`` and then to multiples of ``divisor``, or ``none``.
        resize_to: (height, width) the image is resized into before padding, px.
        divisor: of the sides after ``shortest_side``.
        padding: ``bottom_right`` or ``center``.
        pad_value: grey level of the padding.
        normalization: the photometric step the network was trained with.
        normalized_in_graph: True when the file takes RGB in 0..``white`` and applies ``normalization`` itself.
        white: what the file takes for white: 255, or 1 for floats in 0..1.
        custom_preprocessing: a module of the user's own is in the file: what it takes is not known here.
    """

    name: str = "input"
    batch: int | None = 1
    height: int = 640
    width: int = 640
    channels: int = 3
    dtype: str = "uint8"
    resize: str = "longest_side"
    resize_to: tuple[int, int] = (640, 640)
    divisor: int = 1
    padding: str = "bottom_right"
    pad_value: int = 127
    normalization: Normalization = field(default_factory=Normalization)
    normalized_in_graph: bool = True
    white: int = 255
    custom_preprocessing: bool = False

    def __post_init__(self) -> None:
        resizes = ("longest_side", "stretch", "shortest_side", "none")
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
        """Whether height and width are symbolic in the file."""
        return self.resize in ("shortest_side", "none")

    def with_size(self, height: int, width: int) -> InputSpec:
        """The same policy for another input size; the share of the input that images fill is kept."""
        filled = (round(height * self.resize_to[0] / self.height), round(width * self.resize_to[1] / self.width))
        return replace(self, height=height, width=width, resize_to=filled)


@dataclass(frozen=True)
class OutputSpec:
    """The outputs of the file: see the output contract in CONTRIBUTING.md.

    Attributes:
        format: ``batch``, ``flat``, ``rcnn`` (torchvision's names, one image) or ``raw`` (decoded heads of every
            anchor, no selection in the file); ``custom`` where a module of the caller's ends the file.
        names: tensor names in order.
        confidence_threshold, nms_threshold: what the file applies; None for ``raw``.
        max_predictions_per_image: N. num_pre_nms_predictions: candidates that enter NMS.
    """

    format: str = "batch"
    names: tuple[str, ...] = ()
    confidence_threshold: float | None = None
    nms_threshold: float | None = None
    max_predictions_per_image: int | None = None
    num_pre_nms_predictions: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the outputs are final predictions."""
        return self.format in ("batch", "flat", "rcnn")


@dataclass(frozen=True)
class ModelSpec:
    """Everything a runner needs to know about a model file, stored inside it (ONNX) or beside it (engine).

    Attributes:
        model: model name. task: ``pose``, ``detection``, or ``custom`` for a converted module.
        input, output: see InputSpec and OutputSpec.
        skeleton: joints of a pose model. class_names: classes of a detection model.
        precision: ``fp32``, ``fp16``, ``int8``, ``int8+fp16``.
        quantization: how the precision was reached: method, images, layers kept; empty for ``fp32``.
        weights: where they came from: ``coco_pose``, a file name, ``seed 0``.
        weights_sha256: digest of the state dict (names, shapes, values).
        plugins_required: operators a runtime must provide beyond ONNX.
        generator: program and version that wrote the file.
    """

    model: str
    task: str = "pose"
    input: InputSpec = field(default_factory=InputSpec)
    output: OutputSpec = field(default_factory=OutputSpec)
    skeleton: Skeleton = field(default_factory=lambda: Skeleton(()))
    class_names: tuple[str, ...] = ()
    precision: str = "fp32"
    quantization: str = ""
    weights: str = ""
    weights_sha256: str = ""
    plugins_required: tuple[str, ...] = ()
    generator: str = ""
    version: int = SPEC_VERSION

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(asdict(self), indent=indent)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str | Path = "model file") -> ModelSpec:
        """Reads the description out of the metadata of an ONNX file. Raises RunnerError when it holds none."""
        if METADATA_KEY not in metadata:
            raise RunnerError(
                f"opening {origin}: it holds no trt_pose description (joints, thresholds, image policy)."
                " Export it with trt-pose, or give another toolkit's file one with trt-pose attach."
            )
        return cls.from_json(metadata[METADATA_KEY], origin)

    @classmethod
    def from_json(cls, text: str, origin: str | Path = "model file") -> ModelSpec:
        """Reads what :meth:`to_json` wrote. Raises RunnerError naming ``origin`` when it cannot be understood."""
        try:
            record = json.loads(text)
            if record["version"] > SPEC_VERSION:
                raise RunnerError(
                    f"reading the description in {origin}: version {record['version']}, this trt_pose knows up to"
                    f" {SPEC_VERSION}. Upgrade trt-pose."
                )
            inputs = _known(InputSpec, record["input"])
            inputs["normalization"] = Normalization(**_tupled(_known(Normalization, inputs["normalization"])))
            top = _known(cls, record)
            top["input"] = InputSpec(**_tupled(inputs))
            top["output"] = OutputSpec(**_tupled(_known(OutputSpec, record["output"])))
            top["skeleton"] = Skeleton.from_dict(record["skeleton"])
            return cls(**_tupled(top))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, RunnerError):
                raise
            raise RunnerError(
                f"reading the description in {origin}: not a trt_pose description ({type(error).__name__}: {error})."
                " Export the model again with trt-pose."
            ) from error


def _known(cls: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``record`` that ``cls`` has: files written by a newer minor version stay readable."""
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in record.items() if name in names}


def _tupled(record: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


@dataclass(frozen=True)
class Letterbox:
    """How one image was placed in the network input, and back.

    A source point (x, y) lies at ``(x * scale_x + left, y * scale_y + top)`` in the network input.

    Attributes:
        scale_x, scale_y: resize factors (equal when the aspect ratio is kept).
        left, top: padding, px of the network input.
    """

    scale_x: float = 1.0
    scale_y: float = 1.0
    left: int = 0
    top: int = 0
