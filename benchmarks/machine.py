"""What a result was measured on, in a line, and the memory it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def sentence(where: dict[str, Any]) -> str:
    """:func:`trt_pose.benchmark.machine.machine` in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, {versions}."


def peak_mb() -> float:
    """Largest resident memory of this process since it began, MB; rusage would count the parent's before exec, too."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
