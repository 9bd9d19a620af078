"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Processor, cores, Python and package versions."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def sentence(where: dict[str, Any]) -> str:
    """:func:`machine` in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, {versions}."


def peak_mb() -> float:
    """Largest resident memory of this process since it began, MB; rusage would count the parent's before exec, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
