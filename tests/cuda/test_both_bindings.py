"""The same tests on cuda-bindings of CUDA 12 and 13, in processes of their own; ``make bindings`` fetches them."""

import os
import subprocess
import sys

import pytest

from .. import cuda
from ..bindings import ROOT
from ..bindings.fetch import CUDA, FOLDER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bindings,
    pytest.mark.skipif(bool(cuda.why_not()), reason=cuda.why_not() or "-"),
]
TESTS = ("tests/gpu/test_device.py", "tests/runtime/test_guests.py")


@pytest.mark.parametrize("version", [version.rstrip(".*") for version in CUDA])
def test_the_device_layer_on(version):
    folder = FOLDER / f"cuda-{version}"
    check = f"import cuda.bindings as b; assert b.__version__.startswith({version!r}), b.__version__"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    # The kernels' resources are NVRTC's matter, and the time of a launch one of a quiet machine.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *TESTS]
    command += ["-k", "not kernels_need and not launch_costs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
