"""Runners: what executes a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.plan import SUFFIXES as ENGINE_SUFFIXES
from ..errors import RunnerError
from .base import Runner


def open_runner(path: str | Path | bytes, **options: Any) -> Runner:
    """Opens a model file with the runner its suffix calls for.

    Args:
        path: ``.onnx``, or the bytes of one, or an engine (``.engine``, ``.plan``, ``.trt``).
        options: of the runner, see :class:`trt_pose.runtime.ort.OnnxRunner` and
            :class:`trt_pose.runtime.trt.TrtRunner`.

    Raises:
        RunnerError: unknown suffix, missing or damaged file. EngineError: an engine that does not fit this machine.
    """
    suffix = None if isinstance(path, bytes) else Path(path).suffix.lower()
    if suffix in (None, ".onnx"):
        from .ort import OnnxRunner

        return OnnxRunner(path, **options)
    if suffix in ENGINE_SUFFIXES:
        from .trt import TrtRunner

        return TrtRunner(str(path), **options)
    raise RunnerError(
        f"opening {path!s}: got the suffix {suffix or 'none'!r}, expected .onnx or .engine. Export the model first."
    )


__all__ = ["Runner", "open_runner"]
