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
        path: ``.onnx``, or the bytes of one.
        options: of the runner, see :class:`trt_pose.runtime.ort.OnnxRunner`.

    Raises:
        RunnerError: unknown suffix, missing or damaged file.
    """
    suffix = None if isinstance(path, bytes) else Path(path).suffix.lower()
    if suffix in (None, ".onnx"):
        from .ort import OnnxRunner

        return OnnxRunner(path, **options)
    if suffix in ENGINE_SUFFIXES:
        raise RunnerError(
            f"opening {path!s}: this version runs .onnx files only. Use the ONNX file the engine was built of."
        )
    raise RunnerError(f"opening {path!s}: got the suffix {suffix or 'none'!r}, expected .onnx. Export the model first.")


__all__ = ["Runner", "open_runner"]
