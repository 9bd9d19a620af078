"""A short run of the fuzzing, with a fixed seed; ``make fuzz`` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_short_run():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "20", "--seed", "20", "--workers", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
