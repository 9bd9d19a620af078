"""Models by name. Importing this needs no torch; :func:`get` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError, UsageError
from ..types import Models

if TYPE_CHECKING:
    from .model import Model

_NAS_LICENCE = "non-commercial (Deci YOLO-NAS licence), for the published weights only"
_PP_LICENCE = "Apache-2.0"
_POSE_LICENCE = "non-commercial (Deci YOLO-NAS-POSE licence), for the published weights only"


@dataclass(frozen=True)
class ModelInfo:
    """One supported model.

    Attributes:
        name: its name. task: ``pose`` or ``detection``.
        parameters: of the published (17 joints, 80 classes) un-fused network, unused placeholders left out.
        gmacs: multiply-accumulates at 640x640, in 10^9.
        weights: names of published weights. weights_licence: their terms; the code is Apache-2.0.
    """

    name: str
    task: str
    parameters: int
    gmacs: float
    weights: tuple[str, ...]
    weights_licence: str


MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("yolo_nas_pose_n", "pose", 7_165_323, 9.369, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_s", "pose", 16_050_444, 19.11, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_m", "pose", 40_886_734, 50.998, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_pose_l", "pose", 56_919_508, 72.475, ("coco_pose",), _POSE_LICENCE),
        ModelInfo("yolo_nas_s", "detection", 12_878_304, 15.899, ("coco",), _NAS_LICENCE),
        ModelInfo("yolo_nas_m", "detection", 33_861_346, 43.88, ("coco",), _NAS_LICENCE),
        ModelInfo("yolo_nas_l", "detection", 44_529_448, 59.917, ("coco",), _NAS_LICENCE),
        ModelInfo("ppyoloe_s", "detection", 8_084_588, 8.634, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_m", "detection", 24_134_892, 24.888, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_l", "detection", 54_078_556, 54.939, ("coco",), _PP_LICENCE),
        ModelInfo("ppyoloe_x", "detection", 102_331_484, 103.166, ("coco",), _PP_LICENCE),
    )
}


def look_up(name: str | Models) -> ModelInfo:
    """The entry of ``name``. Raises UsageError that names the nearest model."""
    import difflib

    key = str(name).lower()
    if key not in MODELS:
        near = difflib.get_close_matches(key, MODELS, 1)
        hint = f"Did you mean {near[0]}?" if near else "See trt-pose models."
        raise UsageError(f"looking up a model: got {str(name)!r}, expected one of {', '.join(MODELS)}. {hint}")
    return MODELS[key]


def get(
    model_name: str | Models,
    *,
    num_classes: int | None = None,
    pretrained_weights: str | None = None,
    checkpoint_path: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """Makes a model, in evaluation mode, on the CPU.

    Args:
        model_name: ``"yolo_nas_pose_s"`` or ``Models.YOLO_NAS_POSE_S``.
        num_classes: number of joints or classes; read from the checkpoint when None, else 17 or 80.
        pretrained_weights: name of published weights (``"coco_pose"``, ``"coco"``); downloaded once, see
            ``weights.fetch``.
        checkpoint_path: a ``.pth`` of the reference release's trainer, a plain state dict, or ``.safetensors``.
        seed: of the initialisation when there are no weights; such a model finds nothing meaningful, and a warning
            says so.

    Raises:
        UsageError: unknown model, both kinds of weights, or num_classes out of range.
        CheckpointError: the weights cannot be fetched, read, or do not fit.
        MissingDependencyError: torch is not installed.
    """
    chosen = look_up(model_name)
    if pretrained_weights is not None and checkpoint_path is not None:
        raise UsageError("making a model: got pretrained_weights and checkpoint_path. Give one of them.")
    if num_classes is not None and not 1 <= num_classes <= 1024:
        raise UsageError(f"making a model: got num_classes={num_classes}, expected 1..1024. Correct it.")
    try:
        from . import checkpoint
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingDependencyError(
            "making a model: torch is not installed. Run: pip install 'trt-pose[export]'"
        ) from error

    if pretrained_weights is not None:
        from . import weights

        path = weights.fetch(chosen, pretrained_weights)
        return checkpoint.load(chosen.name, path, num_classes, origin=pretrained_weights)
    if checkpoint_path is not None:
        return checkpoint.load(chosen.name, Path(checkpoint_path), num_classes)
    return checkpoint.initialize(chosen.name, num_classes, seed)


__all__ = ["MODELS", "ModelInfo", "get", "look_up"]
