"""Training checkpoints in the layout of super-gradients' trainer, so that both programs can load them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from ..errors import CheckpointError, SourceError, first_line
from ..files import write_atomically
from ..models.model import PoseModel
from ..models.processing import Processing

LATEST, BEST = "ckpt_latest.pth", "ckpt_best.pth"  # super-gradients' names


def layout(model: PoseModel, averaged: PoseModel, epoch: int, best: float) -> dict[str, Any]:
    """Returns the entries of a checkpoint with the weights and their description."""
    return {
        "net": _on_cpu(model.state_dict()),
        "ema_net": _on_cpu(averaged.state_dict()),
        "epoch": epoch,
        "acc": best,
        "packages": {"torch": str(torch.__version__), "numpy": np.__version__, "opencv": cv2.__version__},
        "processing_params": processing_params(model.processing),
        "trt_pose": {"model": model.name, "skeleton": model.processing.skeleton.to_dict()},
    }


def _on_cpu(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def processing_params(processing: Processing) -> dict[str, Any]:
    """Returns a model's processing in super-gradients' format, which ``models.processing.from_checkpoint`` reads."""
    spec, skeleton = processing.input, processing.skeleton
    size = [spec.height, spec.width]
    steps: list[dict[str, Any]] = []
    if spec.normalization.channels == "BGR":
        steps.append({"ReverseImageChannels": {}})
    resize = "KeypointsRescale" if spec.resize == "stretch" else "KeypointsLongestMaxSizeRescale"
    steps.append({resize: {"output_shape": list(spec.resize_to)}})
    padding = "KeypointsCenterPadding" if spec.padding == "center" else "KeypointsBottomRightPadding"
    steps.append({padding: {"output_shape": size, "pad_value": spec.pad_value}})
    mean, std = spec.normalization.mean, spec.normalization.std
    if not any(mean) and len(set(std)) == 1:
        steps.append({"StandardizeImage": {"max_value": std[0]}})
    else:
        steps.append({"NormalizeImage": {"mean": list(mean), "std": list(std)}})
    steps.append({"ImagePermute": {"permutation": [2, 0, 1]}})
    return {
        "image_processor": {"ComposeProcessing": {"processings": steps}},
        "conf": processing.confidence,
        "iou": processing.iou,
        "pre_nms_max_predictions": processing.max_candidates,
        "post_nms_max_predictions": processing.max_predictions,
        "edge_links": [list(edge) for edge in skeleton.edges],
        "edge_colors": [list(color) for color in skeleton.edge_colors],
        "keypoint_colors": [list(color) for color in skeleton.joint_colors],
    }


def write(path: Path, state: dict[str, Any]) -> Path:
    """Writes a checkpoint atomically and returns ``path``. Raises SourceError when it cannot be written."""

    def save(file: Path) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch raises RuntimeError when the disk is full
            raise OSError(first_line(error)) from error

    return write_atomically(path, save, SourceError)


def read_resumable(path: str | Path) -> dict[str, Any]:
    """Reads the checkpoint of a training run to resume. Raises CheckpointError for any other file."""
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"resuming from {path}: there is no such file. Check the path.") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise not_resumable(path, error) from error
    if not isinstance(record, dict) or not {"ema_updates", "recipe"} <= set(record):
        raise not_resumable(path, None)
    return record


def check_recipe(path: str | Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises CheckpointError, which names the entry, when the recipe differs from that of the checkpoint."""
    # A round trip through JSON turns tuples into lists, as in the file.
    plain = msgspec.to_builtins(wanted)
    for name, value in msgspec.to_builtins(found).items():
        if plain.get(name) != value:
            raise CheckpointError(
                f"resuming from {path}: it was begun with {name} {value}, this is {plain.get(name)}. Give what it was"
                " begun with, or begin another from its weights with --weights."
            )


def not_resumable(path: str | Path, error: Exception | None) -> CheckpointError:
    reason = f" ({type(error).__name__})" if error is not None else ""
    return CheckpointError(
        f"resuming from {path}: not the ckpt_latest.pth of a training with these settings{reason}. Begin from its"
        " weights with --weights instead."
    )
