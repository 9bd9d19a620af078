"""Runners, which execute model files.

To add a backend, add a module with a runner and a row to :data:`BACKENDS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import MissingDependencyError, RunnerError, UsageError
from ..files import check_readable
from ..spec import ModelSpec
from ..trt.sidecar import SUFFIXES as ENGINE_SUFFIXES
from .onnx_file import read_metadata
from .runner import Runner


@dataclass(frozen=True)
class Backend:
    """What runs files of one kind.

    Attributes:
        name: name of the backend.
        runs: the kind of file, as a message calls it.
        suffixes: suffixes of such files.
        options: keyword arguments of the runner.
        module: module of this package that holds the runner.
        runner: name of the runner class.
        reads_bytes: the runner also takes the bytes of a file.
        reference: options under which two files are compared, so that only the files differ.
    """

    name: str
    runs: str
    suffixes: tuple[str, ...]
    options: tuple[str, ...]
    module: str
    runner: str
    reads_bytes: bool = False
    reference: tuple[tuple[str, Any], ...] = ()

    def open(self, path: str | bytes, options: dict[str, Any]) -> Runner:
        """Opens a file. Raises UsageError for an option of another backend."""
        wrong = sorted(set(options) - set(self.options))
        if wrong:
            shown = "the model" if isinstance(path, bytes) else path
            others = [other.name for other in BACKENDS if set(wrong) & set(other.options)]
            owner = f"belongs to {others[0]}" if others else "is no option of any backend"
            raise UsageError(f"opening {shown}: {wrong[0]} {owner}, and it is {self.runs}. Leave it out.")
        return cast(Runner, getattr(importlib.import_module(f".{self.module}", __name__), self.runner)(path, **options))


BACKENDS = (
    Backend(
        name="ONNX Runtime",
        runs="an ONNX file",
        suffixes=(".onnx",),
        options=("providers", "threads", "precision"),
        module="ort",
        runner="OnnxRunner",
        reads_bytes=True,
        reference=(("providers", ("cpu",)),),
    ),
    Backend(
        name="OpenVINO",
        runs="an ONNX file",
        suffixes=(".onnx",),
        options=("providers", "threads", "precision"),
        module="openvino",
        runner="OpenVinoRunner",
        reads_bytes=True,
    ),
    Backend(
        name="TensorRT",
        runs="an engine",
        suffixes=ENGINE_SUFFIXES,
        options=("device", "library", "weights", "cuda_graph", "spin_wait", "transfers"),
        module="trt",
        runner="TrtRunner",
    ),
)


def find_backend(path: str | Path | bytes) -> Backend:
    """Returns the backend for a file, by its suffix. Raises RunnerError for an unknown one."""
    if isinstance(path, bytes):
        return next(backend for backend in BACKENDS if backend.reads_bytes)
    suffix = Path(path).suffix.lower()
    for backend in BACKENDS:
        if suffix in backend.suffixes:
            return backend
    expected = " or ".join(dict.fromkeys(backend.suffixes[0] for backend in BACKENDS))
    raise RunnerError(
        f"opening {path!s}: got the suffix {suffix or 'none'!r}, expected {expected}. Export the model first."
    )


def open_runner(
    path: str | Path | bytes,
    *,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    precision: str | None = None,
    device: int | None = None,
    library: str | Path | None = None,
    weights: str | Path | None = None,
    cuda_graph: bool | None = None,
    spin_wait: bool | None = None,
    transfers: bool | None = None,
) -> Runner:
    """Opens a model file with the runner for its suffix. None leaves an option at the runner's default.

    Args:
        path: an ``.onnx`` file or its bytes, or an engine (``.engine``, ``.plan``, ``.trt``).
        providers: ``.onnx`` files: ``auto``, the default; ``openvino``, or ``openvino:DEVICE``; ``cpu``, ``cuda``,
            ``tensorrt``, or names of ONNX Runtime's execution providers. ``auto`` takes OpenVINO for files in INT8, if
            it is installed, and for bf16; for others ONNX Runtime on the CPU.
        threads: ``.onnx`` files: number of threads within an operator.
        precision: ``.onnx`` files: ``fp32``, or ``bf16`` with OpenVINO.
        device: engines: index of the GPU.
        library: engines: path of the plugin library, or ``python`` for the plugin in Python.
        weights: engines built with ``--stripWeights``: the ONNX file to fill them from; looked for beside the engine.
        cuda_graph: engines: launch a captured CUDA graph; True by default.
        spin_wait: engines: poll for the end of a run instead of blocking.
        transfers: engines: count the copies to and from the GPU in timings; True by default.

    Raises:
        UsageError: an option that does not apply to this kind of file.
        RunnerError: unknown suffix, missing or damaged file.
        EngineError: an engine that does not fit this machine.
    """
    given = {
        "providers": providers, "threads": threads, "precision": precision, "device": device, "library": library,
        "weights": weights, "cuda_graph": cuda_graph, "spin_wait": spin_wait, "transfers": transfers,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    if providers in ("auto", ["auto"], ("auto",)):
        del options["providers"]
    model = path if isinstance(path, bytes) else str(path)
    backend = find_backend(path)
    if ".onnx" not in backend.suffixes or not _is_for_openvino(model, options):
        return backend.open(model, options)
    openvino = next(other for other in BACKENDS if other.name == "OpenVINO")
    try:
        return openvino.open(model, options)
    except (RunnerError, MissingDependencyError) as error:  # the second: it is installed, but does not load
        if "providers" in options or "precision" in options:
            raise
        warnings.warn(f"{error} ONNX Runtime runs it instead.", stacklevel=2)
        return backend.open(model, {**options, "providers": "cpu"})


def _is_for_openvino(model: str | bytes, options: Mapping[str, Any]) -> bool:
    """Whether OpenVINO runs an ONNX file: asked for, or installed and faster than ONNX Runtime."""
    providers = options.get("providers")
    if providers is not None:
        names = [providers] if isinstance(providers, str) else providers
        return any(name.lower().partition(":")[0] == "openvino" for name in names)
    if options.get("precision", "fp32") != "fp32":
        return True
    if importlib.util.find_spec("openvino") is None:
        return False
    try:
        if not isinstance(model, bytes):
            check_readable(model, "opening", RunnerError)  # a pipe would be waited for
        return "int8" in ModelSpec.from_metadata(read_metadata(model)).precision
    except RunnerError:  # ONNX Runtime says what is wrong with the file
        return False


__all__ = ["BACKENDS", "Backend", "Runner", "find_backend", "open_runner"]
