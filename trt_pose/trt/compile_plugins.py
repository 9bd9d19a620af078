"""Compilation of the plugin library from a checkout, with CMake."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..errors import EngineError, MissingDependencyError
from ..progress import step
from .plugins import LIBRARY

_SOURCES = Path(__file__).resolve().parent.parent.parent / "plugins"


def build_plugin(
    include: Path | None = None, architectures: str | None = None, folder: Path = _SOURCES / "build"
) -> Path:
    """Builds libtrt_pose_plugins.so in ``folder``, by default one that :func:`load_plugins` searches.

    Args:
        include: the folder of NvInferRuntimePlugin.h; None lets CMake search (``TENSORRT_INCLUDE_DIR``, the system).
        architectures: CMake's list of GPUs; None builds for Turing and newer.

    Raises:
        MissingDependencyError: CMake or nvcc is not installed.
        EngineError: the sources or headers are missing, or CMake or the compiler fails.
    """
    if not (_SOURCES / "CMakeLists.txt").exists():
        raise EngineError(
            "building the plugin: its sources are not beside this package. Clone the repository and run make plugin;"
            " without the library the Python plugin serves."
        )
    for program, what in (("cmake", "pip install cmake"), ("nvcc", "the CUDA toolkit (cuda-nvcc)")):
        if shutil.which(program) is None:
            raise MissingDependencyError(f"building the plugin: {program} is not on the path. Install {what}.")
    # Passed on every build, so that the value of an earlier build does not remain in CMake's cache.
    gpus = f"-DTRT_POSE_ARCHITECTURES={architectures or ''}"
    configure = ["cmake", "-S", str(_SOURCES), "-B", str(folder), gpus]
    if include is not None:
        configure.append(f"-DTensorRT_INCLUDE_DIR={include.resolve()}")
        if not (include / "NvInferRuntimePlugin.h").exists():
            raise EngineError(
                f"building the plugin: {include} has no NvInferRuntimePlugin.h. Name the include folder of"
                " TensorRT 10.0 or newer."
            )
    with step("compiling the plugin"):
        _run(configure)
        _run(["cmake", "--build", str(folder)])
    return folder / LIBRARY


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # CMake's message spans several lines; compilers print the first error first.
        reason = " ".join(lines[:6])[:500]
        raise EngineError(f"building the plugin: {' '.join(command[:2])} failed: {reason}")
