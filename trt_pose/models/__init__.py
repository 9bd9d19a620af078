"""Models by name. Only :func:`get` needs torch; importing this module does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import Models
from ..errors import CheckpointError, UsageError
from ..optional import needed
from ..skeleton import COCO, Skeleton

if TYPE_CHECKING:
    from .model import Model
from .card import Card
from .catalogue import MODELS, look_up


def get(
    model_name: str | Models,
    *,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    pretrained_weights: str | None = None,
    checkpoint_path: str | Path | None = None,
    colormap: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """Creates a model in evaluation mode, on the CPU.

    Args:
        model_name: name of the model: ``"yolo_nas_pose_s"`` or ``Models.YOLO_NAS_POSE_S``.
        num_classes: number of classes; for Keypoint R-CNN the background counts as one. For YOLO-NAS-Pose it is the
            number of joints, as in super-gradients. When None, it is read from the weights; without weights it is 80
            (detection models), 2 (Keypoint R-CNN) or 17 (joints).
        num_keypoints: number of joints of a pose model.
        pretrained_weights: name of published weights (``"coco_pose"``, ``"coco"``), downloaded once, see
            ``weights.fetch``. ``"none"`` also leaves out packaged weights.
        checkpoint_path: a ``.pth`` written by super-gradients' trainer, a plain state dict, or ``.safetensors``.
        colormap: JSON with the names and colours of the joints, see :meth:`trt_pose.skeleton.Skeleton.from_colormap`.
        seed: seed of the initialisation when there are no weights. The predictions of such a model are meaningless; a
            warning is issued.

    Raises:
        UsageError: the model is unknown, both kinds of weights are given, or a number is out of range or does not apply
            to the model.
        CheckpointError: the weights cannot be fetched or read, or do not fit the model.
        MissingDependencyError: torch is not installed.
    """
    chosen = look_up(model_name)
    if pretrained_weights is not None and checkpoint_path is not None:
        raise UsageError("making a model: got pretrained_weights and checkpoint_path. Give one of them.")
    joints, classes = _counts(chosen, num_classes, num_keypoints)
    names = None if colormap is None else Skeleton.from_colormap(colormap)
    if chosen.packaged and checkpoint_path is None and joints in (None, COCO.num_joints):
        pretrained_weights = pretrained_weights or chosen.weights[0]
    with needed("making a model"):
        from . import checkpoint

    if pretrained_weights not in (None, "none"):
        from . import weights

        path = weights.fetch(chosen, pretrained_weights)
        try:
            model = checkpoint.load(chosen.name, path, joints, classes, origin=pretrained_weights)
        except CheckpointError:
            if (joints, classes) == (None, None):  # else the numbers asked for may be what does not fit
                weights.discard(path)
            raise
        weights.pin(path)
    elif checkpoint_path is not None:
        model = checkpoint.load(chosen.name, Path(checkpoint_path), joints, classes)
    else:
        model = checkpoint.initialize(chosen.name, joints, classes, seed)
    if names is not None:
        _name_joints(model, names)
    return model


def _counts(chosen: Card, num_classes: int | None, num_keypoints: int | None) -> tuple[int | None, int | None]:
    """Returns the requested numbers of joints and classes; None where the weights decide."""
    for name, count in (("num_classes", num_classes), ("num_keypoints", num_keypoints)):
        if count is not None and not 1 <= count <= 1024:
            raise UsageError(f"making a model: got {name}={count}, expected 1..1024.")
    if "joints" not in chosen.counts and num_keypoints is not None:
        raise UsageError(f"making {chosen.name}: it detects objects without keypoints. Leave num_keypoints out.")
    if "classes" in chosen.counts:
        return num_keypoints, num_classes
    if None not in (num_classes, num_keypoints) and num_classes != num_keypoints:
        raise UsageError(
            f"making {chosen.name}: got num_classes={num_classes} and num_keypoints={num_keypoints}, both its number of"
            " joints. Give one of them."
        )
    return num_classes if num_keypoints is None else num_keypoints, None


def _name_joints(model: Model, names: Skeleton) -> None:
    """Sets names and colours of the joints; edges and sigmas are kept only if the names do not change."""
    known = model.processing.skeleton
    if names.num_joints != known.num_joints:
        raise UsageError(
            f"making {model.name}: the colormap names {names.num_joints} keypoints, the model has {known.num_joints}."
            " Use the colormap the model was trained with."
        )
    if names.names == known.names:
        names = replace(known, joint_colors=names.joint_colors)
    model.processing = replace(model.processing, skeleton=names)


__all__ = ["MODELS", "Card", "get", "look_up"]
