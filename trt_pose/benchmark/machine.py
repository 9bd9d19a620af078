"""Description of the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..gpu.device import find_gpu

_PACKAGES = ("trt-pose", "numpy", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda-core", "cuda-bindings")


def machine(packages: Iterable[str] = _PACKAGES) -> dict[str, Any]:
    """Returns processor, number of cores, GPU (or None), Python version and the versions of installed ``packages``."""
    try:
        gpu = find_gpu()
    except MissingDependencyError:
        gpu = None
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "packages": versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
