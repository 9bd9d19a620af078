"""Tests against real bindings of TensorRT that need no GPU; ``make bindings`` fetches them.

Each runs in a process of its own: releases do not share one, and some crash.
"""

import json
import os
import subprocess
import sys

import pytest

from .fetch import FOLDER, FULL, LEAN

ROOT = FOLDER.parent.parent
# How a test names what it runs on: full bindings over stubs, the lean runtimes, and TensorRT-RTX of the environment.
PLACES = {
    **{f"full-{version}": "tensorrt_bindings" for version in FULL},
    **{f"lean-{version}": "tensorrt_lean_bindings" for version in LEAN},
    "rtx": "tensorrt_rtx",
}


def run_on(place, code, *arguments, **environment):
    """Runs Python code in which ``tensorrt`` is the named one; returns the finished process."""
    folder = FOLDER / place
    if place != "rtx" and not folder.exists():
        pytest.skip("needs make bindings")
    if place == "rtx":
        pytest.importorskip("tensorrt_rtx")
    module = PLACES[place]
    start = f"import sys, importlib; trt = sys.modules['tensorrt'] = importlib.import_module({module!r})\n"
    libraries = [str(folder / "stubs"), str(folder / "tensorrt_lean_libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    return subprocess.run(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{folder}",
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            **environment,
        },
    )


def answer_of(done):
    """The JSON in the last line of a process that must have succeeded."""
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
