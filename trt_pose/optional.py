"""Packages that only some features need, and the sentence where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import MissingDependencyError

# What provides each optional module, as pip takes it.
_DISTRIBUTIONS = {
    "cuda": "'cuda-bindings[all]'",
    "faster_coco_eval": "faster-coco-eval",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxruntime_ep_openvino": "onnxruntime-ep-openvino",
    "onnxslim": "onnxslim",
    "polygraphy": "polygraphy",
    "safetensors": "safetensors",
    "supervision": "supervision",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "torch": "torch",
    "torchvision": "torchvision",
}


@contextmanager
def needed(doing: str, hint: str = "") -> Iterator[None]:
    """Wraps imports of optional packages.

    Args:
        doing: what needs them, as the start of a sentence: ``quantizing``.
        hint: a second way out, put behind the first: ``, or leave --verify-data out``.

    Raises:
        MissingDependencyError: one of the packages above is not installed. The message says what to install.
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
    with needed(doing):
        return importlib.import_module(module)


def check_installed(*modules: str, doing: str) -> None:
    """Raises MissingDependencyError for the first module that is not installed, without importing any."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing(module, doing)


def missing(module: str, doing: str, hint: str = "") -> MissingDependencyError:
    """The error for an optional module that is not installed."""
    distribution = _DISTRIBUTIONS[module.partition(".")[0]]
    name = distribution.strip("'").partition("[")[0]
    return MissingDependencyError(f"{doing}: {name} is not installed. Run: pip install {distribution}{hint}")
