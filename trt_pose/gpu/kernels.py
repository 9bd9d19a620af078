"""CUDA kernels compiled at run time. Only this module and device.py make raw CUDA calls.

They use cuda-bindings, which has wheels for every platform and covers all of CUDA, including graphs. It is imported
when a GPU is first needed.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingDependencyError
from ..files import cache_folder, write_atomically
from .device import bindings, check, current_architecture

_loading = threading.Lock()


def compile_kernel(source: Path, architecture: str) -> bytes:
    """Compiles CUDA C++ with NVRTC; caches the result in ``$XDG_CACHE_HOME/trt_pose/kernels``.

    Args:
        source: a ``.cuh`` file without includes.
        architecture: the target, such as ``sm_90``. NVRTC needs no GPU.

    Returns:
        The cubin.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        EngineError: NVRTC is too old for the architecture, or rejects the source; its log is in the message.
    """
    nvrtc = bindings("nvrtc")
    text = source.read_bytes()
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--fmad=true"]
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-bindings looks for its libraries at the first call
        raise MissingDependencyError(
            "compiling a kernel: NVRTC is not installed. Run: pip install 'cuda-bindings[all]', or install the CUDA"
            " toolkit."
        ) from error
    digest = hashlib.sha256(b"\0".join([text, *options, f"{major}.{minor}".encode()])).hexdigest()
    path = cache_folder("kernels") / f"{source.stem}-{architecture}-{digest[:16]}.cubin"
    if path.exists():
        return path.read_bytes()
    cubin = _compile(nvrtc, text, source.name, options)
    with suppress(OSError, EngineError):  # without a writable cache the next process compiles again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write_bytes(cubin), EngineError)
    return cubin


def _compile(nvrtc: Any, text: bytes, name: str, options: list[bytes]) -> bytes:
    result, program = nvrtc.nvrtcCreateProgram(text, name.encode(), 0, [], [])
    check(result, "creating an NVRTC program")
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(result) != 0:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        reason = " ".join(log.decode(errors="replace").strip("\0 ").split())[:400]
        raise EngineError(f"compiling {name} with {options[0].decode()}: {reason or result}. Update cuda-bindings.")
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    cubin = bytes(size)
    check(nvrtc.nvrtcGetCUBIN(program, cubin)[0], "reading the cubin")
    nvrtc.nvrtcDestroyProgram(program)
    return cubin


class Kernel:
    """A kernel of one source file, compiled for the current device at its first launch; any thread may launch it."""

    def __init__(self, source: Path, name: str) -> None:
        self._source, self._name = source, name
        self._functions: dict[str, Any] = {}

    def launch(self, blocks: int, threads: int, params: ctypes.Structure, stream: int) -> None:
        """Enqueues the kernel on ``stream`` of the current context, with ``params`` by value as its only argument.

        Raises:
            EngineError: there is no current context, or the driver reports an error.
        """
        driver = bindings("driver")
        function = self._load(driver)
        argument = ctypes.c_void_p(ctypes.addressof(params))
        arguments = ctypes.addressof(argument)
        (result,) = driver.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, 0)
        check(result, f"launching {self._name}")

    def _load(self, driver: Any) -> Any:
        architecture = current_architecture()
        with _loading:
            if architecture not in self._functions:
                cubin = compile_kernel(self._source, architecture)
                # The driver loads a library into every context that uses it, so contexts are not tracked here.
                result, library = driver.cuLibraryLoadData(cubin, [], [], 0, [], [], 0)
                check(result, f"loading {self._name}")
                result, kernel = driver.cuLibraryGetKernel(library, self._name.encode())
                check(result, f"finding {self._name}")
                self._functions[architecture] = driver.CUfunction(int(kernel))
            return self._functions[architecture]
