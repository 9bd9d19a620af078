"""Compilation of the plugin library, with CMake, from the sources in the package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..errors import EngineError, MissingDependencyError
from ..files import cache_folder
from ..progress import step
from .plugins import LIBRARY

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCES = _PACKAGE / "cpp"


def get_include() -> str:
    """Returns the folder of the C++ headers (``trt_pose/engine.hpp``), for a compiler's include path."""
    return str(_SOURCES / "runtime" / "include")


def build_folder() -> Path:
    """Returns where :func:`build_plugin` builds: in a checkout beside the sources, else in the cache folder."""
    checkout = _PACKAGE.parent / "plugins"
    return checkout / "build" if (checkout / "CMakeLists.txt").exists() else cache_folder("plugins")


def build_plugin(include: Path | None = None, architectures: str | None = None, folder: Path | None = None) -> Path:
    """Builds libtrt_pose_plugins.so in ``folder``, by default :func:`build_folder`, where it is found again.

    Args:
        include: the folder of NvInferRuntimePlugin.h; None lets CMake search (``TENSORRT_INCLUDE_DIR``, the system).
        architectures: CMake's list of GPUs; None builds for Turing and newer.
        folder: where to build; None is :func:`build_folder`.

    Raises:
        MissingDependencyError: CMake or nvcc is not installed.
        EngineError: the sources or headers are missing, or CMake or the compiler fails.
    """
    folder = folder or build_folder()
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
