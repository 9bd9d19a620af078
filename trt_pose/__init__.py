"""From a PyTorch pose model to poses: ONNX export with pre- and post-processing inside, and prediction without torch.

Importing this package loads nothing heavy: every public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import models
    from .choices import DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend, Models
    from .errors import (
        CalibrationError,
        CheckpointError,
        EngineError,
        ExportError,
        MissingDependencyError,
        PoseError,
        RunnerError,
        SourceError,
        TrainingError,
        UsageError,
    )
    from .export import convert_to_onnx
    from .predictor import PosePredictor
    from .results.detections import DetectionResult, Detections
    from .results.poses import PoseResult, Poses
    from .runtime import Runner, open_runner
    from .skeleton import Skeleton
    from .spec import Letterbox, ModelSpec

_HOMES = {
    **dict.fromkeys(
        (
            "CalibrationError", "CheckpointError", "EngineError", "ExportError", "MissingDependencyError", "PoseError",
            "RunnerError", "SourceError", "TrainingError", "UsageError",
        ),
        "errors",
    ),
    "PosePredictor": "predictor",
    "DetectionResult": "results.detections",
    "Detections": "results.detections",
    "PoseResult": "results.poses",
    "Poses": "results.poses",
    "Runner": "runtime",
    "convert_to_onnx": "export",
    "open_runner": "runtime",
    "Skeleton": "skeleton",
    **dict.fromkeys(
        ("DetectionOutputFormatMode", "ExportQuantizationMode", "ExportTargetBackend", "Models"), "choices"
    ),
    **dict.fromkeys(("Letterbox", "ModelSpec"), "spec"),
}  # fmt: skip

__all__ = [
    "CalibrationError", "CheckpointError", "DetectionOutputFormatMode", "DetectionResult", "Detections", "EngineError",
    "ExportError", "ExportQuantizationMode", "ExportTargetBackend", "Letterbox", "MissingDependencyError", "ModelSpec",
    "Models", "PoseError", "PosePredictor", "PoseResult", "Poses", "Runner", "RunnerError", "Skeleton", "SourceError",
    "TrainingError", "UsageError", "__version__", "convert_to_onnx", "models", "open_runner",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module(".models", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
