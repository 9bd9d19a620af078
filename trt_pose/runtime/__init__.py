"""Runners, which execute model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import RunnerError, UsageError
from ..trt.sidecar import SUFFIXES as ENGINE_SUFFIXES
from .runner import Runner

_ONNX_OPTIONS = ("providers", "threads", "precision")
_ENGINE_OPTIONS = ("device", "library", "cuda_graph", "spin_wait", "transfers")


def open_runner(path: str | Path | bytes, **options: Any) -> Runner:
    """Opens a model file with the runner for its suffix.

    Args:
        path: an ``.onnx`` file or its bytes, or an engine (``.engine``, ``.plan``, ``.trt``).
        options: options of the runner, see :class:`trt_pose.runtime.ort.OnnxRunner` and
            :class:`trt_pose.runtime.trt.TrtRunner`.

    Raises:
        UsageError: an option that does not apply to this kind of file.
        RunnerError: unknown suffix, missing or damaged file.
        EngineError: an engine that does not fit this machine.
    """
    suffix = None if isinstance(path, bytes) else Path(path).suffix.lower()
    if suffix in (None, ".onnx"):
        from .ort import OnnxRunner

        _refuse(options, _ENGINE_OPTIONS, "a model" if isinstance(path, bytes) else path, "engines", "ONNX")
        return OnnxRunner(path, **options)
    if suffix in ENGINE_SUFFIXES:
        from .trt import TrtRunner

        _refuse(options, _ONNX_OPTIONS, path, "ONNX Runtime", "an engine")
        return TrtRunner(str(path), **options)
    raise RunnerError(
        f"opening {path!s}: got the suffix {suffix or 'none'!r}, expected .onnx or .engine. Export the model first."
    )


def _refuse(options: dict[str, Any], names: tuple[str, ...], path: Any, whose: str, what: str) -> None:
    wrong = [name for name in names if name in options]
    if wrong:
        raise UsageError(f"opening {path!s}: {', '.join(wrong)} belong to {whose}, and it is {what}. Leave them out.")


__all__ = ["Runner", "open_runner"]
