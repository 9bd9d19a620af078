"""Export: from a torch model to a file that needs no torch."""

from __future__ import annotations

from ..errors import MissingDependencyError

try:
    from .convert import convert_to_onnx
    from .export import export_model
    from .result import ModelExportResult
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("torch", "onnx"):
        raise
    raise MissingDependencyError(
        f"exporting: {error.name} is not installed. Run: pip install 'trt-pose[export]'"
    ) from error


__all__ = ["ModelExportResult", "convert_to_onnx", "export_model"]
