"""Optional packages, and the error raised when one is not installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import MissingDependencyError

# The distribution that provides each optional module, as an argument of pip install.
_DISTRIBUTIONS = {
    "cuda": "'cuda-core[cu13]'",
    "cupy": "cupy-cuda13x",
    "faster_coco_eval": "faster-coco-eval",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxslim": "onnxslim",
    "openvino": "openvino",
    "pandas": "pandas",
    "polygraphy": "polygraphy",
    "pycuda": "pycuda",
    "safetensors": "safetensors",
    "supervision": "supervision",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "torch": "torch",
    "torchvision": "torchvision",
    "trackers": "trackers",
}
# The package trackers brings opencv-python. It replaces the headless one in the folder cv2, and needs libGL.
BACK_TO_HEADLESS = "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"

# Both packages fill the folder onnxruntime, and the one installed last is used.
ONNXRUNTIME_GPU = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
OVER_ONNXRUNTIME = f"{ONNXRUNTIME_GPU} && pip install --force-reinstall --no-deps onnxruntime-gpu"


@contextmanager
def needed(doing: str, hint: str = "") -> Iterator[None]:
    """Wraps imports of optional packages.

    Args:
        doing: the activity that needs them, as the start of the message: ``quantizing``.
        hint: an alternative, appended to the message: ``, or leave --verify-data out``.

    Raises:
        MissingDependencyError: an optional package is not installed; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if isinstance(error, MissingDependencyError) or module not in _DISTRIBUTIONS:
            raise
        raise missing(module, doing, hint) from error


def require(module: str, doing: str) -> Any:
    """Imports an optional module and returns it; see :func:`needed`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        culprit = (error.name or module).partition(".")[0]
        if culprit not in _DISTRIBUTIONS:
            raise
        raise missing(culprit, doing) from error


def check_installed(*modules: str, doing: str) -> None:
    """Raises MissingDependencyError for the first module that is not installed, without importing any."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing(module, doing)


def missing(module: str, doing: str, hint: str = "") -> MissingDependencyError:
    """Returns the error for an optional module that is not installed."""
    distribution = _DISTRIBUTIONS[module.partition(".")[0]]
    name = distribution.strip("'").partition("[")[0]
    return MissingDependencyError(f"{doing}: {name} is not installed. Run: pip install {distribution}{hint}")
