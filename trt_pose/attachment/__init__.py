"""Selection behind the ONNX files of other toolkits."""

from __future__ import annotations

from ..optional import needed

with needed("attaching"):
    from .attach import AttachOptions, attach
    from .restore import restore

__all__ = ["AttachOptions", "attach", "restore"]
