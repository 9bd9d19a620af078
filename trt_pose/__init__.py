"""Pose models from PyTorch to ONNX and TensorRT, with pre- and post-processing inside, and their poses without torch.

The public names are those of ``__init__.pyi``. Each is imported when it is first used, so importing this package loads
nothing heavy.
"""

from __future__ import annotations

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
