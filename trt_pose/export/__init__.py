"""Export of torch models to ONNX files that run without torch."""

from __future__ import annotations

from ..optional import needed

with needed("exporting"):
    from .convert import convert_to_onnx
    from .export import export_model
    from .options import ExportOptions
    from .result import ModelExportResult

__all__ = ["ExportOptions", "ModelExportResult", "convert_to_onnx", "export_model"]
