"""CUDA kernels compiled at run time by NVRTC, through cuda.core."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingDependencyError
from ..files import cache_folder
from ..optional import require
from .device import cuda_errors, driver_version

_loading = threading.Lock()


def packaged_source(name: str) -> Path:
    """Returns the path of a kernel's source, named by its path under ``plugins/``."""
    return Path(str(resources.files("trt_pose").joinpath(f"cpp/{name}")))


def compile_kernel(source: Path, architecture: str) -> Any:
    """Compiles CUDA C++ with NVRTC; keeps the result in ``$XDG_CACHE_HOME/trt_pose/kernels``.

    Args:
        source: a ``.cuh`` file without includes.
        architecture: the target, such as ``sm_90``. NVRTC needs no GPU.

    Returns:
        The cubin, as an ``ObjectCode`` of cuda.core.

    Raises:
        MissingDependencyError: cuda-core or NVRTC is not installed.
        EngineError: NVRTC is too old for the architecture, or rejects the source; its log is in the message.
    """
    core, utils = (require(name, "compiling a kernel") for name in ("cuda.core", "cuda.core.utils"))
    options = core.ProgramOptions(name=source.name, arch=architecture, std="c++17", fma=True)
    try:
        with cuda_errors(f"compiling {source.name} for {architecture}", EngineError, more=" Update cuda-bindings."):
            program = core.Program(source.read_text(encoding="utf-8"), "c++", options)
            try:
                kept = utils.FileStreamProgramCache(cache_folder("kernels"))
                return program.compile("cubin", cache=kept)
            except OSError:  # without a writable cache the next process compiles again
                return program.compile("cubin")
            finally:
                program.close()
    except RuntimeError as error:  # cuda-bindings looks for its libraries at the first call
        raise MissingDependencyError(
            "compiling a kernel: NVRTC is not installed. Run: pip install 'cuda-bindings[all]', or install the CUDA"
            " toolkit."
        ) from error


def nvrtc_version() -> tuple[int, int] | None:
    """Returns the version of NVRTC, such as (12, 9); None when it is not installed."""
    nvrtc = require("cuda.bindings.nvrtc", "compiling a kernel")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError:
        return None
    return int(major), int(minor)


class Kernel:
    """A kernel of one source file, compiled for the current device at its first launch; any thread may launch it."""

    def __init__(self, source: Path, name: str) -> None:
        self._source, self._name = source, name
        self._functions: dict[int, Any] = {}  # by device
        self._code: list[Any] = []  # unloaded with the kernel

    def launch(self, grid: tuple[int, int], threads: int, params: ctypes.Structure, stream: int) -> None:
        """Enqueues the kernel on ``stream`` of the current context, with ``params`` by value as its only argument.

        The launch goes to cuda.bindings, because cuda.core takes numbers and addresses, but no structures.

        Raises:
            EngineError: there is no current context, or the driver reports an error.
        """
        driver = _driver()
        result, device = driver.cuCtxGetDevice()
        if int(result) != 0:
            raise EngineError(f"launching {self._name}: no context is current. Enter the GPU's context first.")
        function = self._functions.get(int(device)) or self._load(driver, int(device))
        argument = ctypes.c_void_p(ctypes.addressof(params))
        (result,) = driver.cuLaunchKernel(
            function, *grid, 1, threads, 1, 1, 0, stream, ctypes.addressof(argument), 0
        )  # fmt: skip
        if int(result) != 0:
            raise EngineError(f"launching {self._name}: CUDA answered {getattr(result, 'name', result)}.")

    def _load(self, driver: Any, device: int) -> Any:
        core = require("cuda.core", "launching a kernel")
        with _loading:
            if device not in self._functions:
                architecture = f"sm_{core.Device(device).arch}"
                code = compile_kernel(self._source, architecture)
                with cuda_errors(f"loading {self._name} for {architecture}", EngineError, more=_mismatch()):
                    kernel = code.get_kernel(self._name)  # the driver loads it into every context that uses it
                self._code.append(code)
                self._functions[device] = driver.CUfunction(int(kernel.handle))
            return self._functions[device]


@cache
def _driver() -> Any:
    return require("cuda.bindings.driver", "launching a kernel")


def _mismatch() -> str:
    """Returns what to do when NVRTC is of a newer major version than the driver, whose code the driver rejects."""
    here, wanted = driver_version(), nvrtc_version()
    if here is None or wanted is None or here[0] >= wanted[0]:
        return ""
    return (
        f" NVRTC is of CUDA {wanted[0]}.{wanted[1]}, and the driver supports CUDA {here[0]}.{here[1]}: update the"
        f" driver, or run: pip install 'cuda-bindings[all]<{wanted[0]}'"
    )
