"""What a result was measured on, in a line, the memory it took, and the files it is written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_results(name: str, record: dict[str, Any], text: str) -> None:
    """Writes ``NAME.json`` and ``NAME.md`` to benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


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
