"""Runner for ``.onnx`` files on OpenVINO, which is fast with INT8 and bf16 where a processor has instructions for them.

Element types, shapes and results are those of the file. FP32 is computed in FP32 unless bf16 is asked for.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from ..errors import RunnerError, UsageError, first_line
from ..files import cache_folder, check_readable, temporary_folder, write_atomically
from ..optional import require
from ..spec import ModelSpec
from .onnx_file import has_external_weights, has_plugin_node, read_metadata
from .runner import Arrays, Reopening, Runner, TensorInfo, check_described, check_feeds, choose_threads

NAME = "openvino"
_CPU = "CPU"
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_KEPT_MODELS = 16  # compiled models in the cache, the latest
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully", "Summary")


class OpenVinoRunner:
    """Runner for ``.onnx`` files, based on OpenVINO.

    Compiled models are kept in the cache folder, so that a file opens faster when it is opened again.

    Args:
        model: path of the file, or the file's bytes.
        providers: ``"openvino"``, or ``"openvino:DEVICE"`` with one of OpenVINO's devices; the device is the CPU by
            default.
        threads: number of threads; None takes one for each core that the process may use.
        precision: ``"fp32"``, or ``"bf16"`` on CPUs that have it (faster, less exact).
        runs: number of runs at once that the threads are shared among.

    Raises:
        RunnerError: missing or damaged file, a file without a description, or an operator that OpenVINO lacks.
        MissingDependencyError: OpenVINO is not installed.
        UsageError: unknown device or precision, one that this device lacks, threads below 1.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        providers: Sequence[str] | str | None = None,
        threads: int | None = None,
        precision: str = "fp32",
        runs: int = 1,
    ) -> None:
        openvino = require("openvino", "opening a model with OpenVINO")
        self._name = "model" if isinstance(model, bytes) else str(model)
        self._reopening = Reopening(model, threads)
        self._precision = precision
        threads = choose_threads(threads, self._name)
        if not isinstance(model, bytes):
            check_readable(model, "opening", RunnerError)
        self.spec = ModelSpec.from_metadata(read_metadata(model), self._name)
        with _explained(self._name):
            device = _choose_device(providers)
            config = _configure(device, precision, threads, runs)
            self._compiled = _compile(model, device, config, "int8" in self.spec.precision)
            self.inputs = {tensor.any_name: _info(tensor) for tensor in self._compiled.inputs}
            self.outputs = {tensor.any_name: _info(tensor) for tensor in self._compiled.outputs}
        if not isinstance(model, bytes):  # parts of files, with the description of the whole, are given as bytes
            check_described(self.spec, self.inputs, self.outputs, self._name)
        self.providers = (f"{NAME}:{device}",)
        self.runtime = f"OpenVINO {openvino.__version__.partition('-')[0]} {device}"
        if precision != "fp32":
            self.runtime += f" {precision}"
        self._lock, self._idle = threading.Lock(), list[Any]()

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs the model on named arrays; returns its outputs by name.

        Raises:
            RunnerError: the arrays do not fit, the runner is closed, or OpenVINO failed.
        """
        with self._request() as request:
            check_feeds(feeds, self.inputs)
            try:
                request.infer(dict(feeds), share_inputs=True)
                return {name: request.get_tensor(name).data.copy() for name in self.outputs}
            except Exception as error:  # OpenVINO's exceptions are RuntimeErrors, but pybind adds others
                raise RunnerError(f"running {self._name}: OpenVINO failed: {_reason(error)}.") from error

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """Lends an inference request; each thread that runs at the same time gets one of its own."""
        with self._lock:
            if self._compiled is None:
                raise RunnerError(f"running {self._name}: the runner is closed. Open it again.")
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            yield request
        finally:
            with self._lock:
                if self._compiled is not None:
                    self._idle.append(request)

    def for_throughput(self) -> tuple[Runner, int]:
        """See :class:`ThroughputRunner` and :class:`Reopening`; on a GPU this runner and 1."""
        runs, _ = self._reopening.share_cores()
        if runs == 1 or self.providers[0] != f"{NAME}:{_CPU}":
            return self, 1
        path = self._reopening.path
        return OpenVinoRunner(path, providers=self.providers, precision=self._precision, runs=runs), runs

    def close(self) -> None:
        with self._lock:
            self._idle.clear()
            self._compiled = None

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _choose_device(providers: Sequence[str] | str | None) -> str:
    """Returns OpenVINO's name of the device that ``openvino:DEVICE`` names. Raises UsageError if it is not here."""
    names = [providers] if isinstance(providers, str) else list(providers or [NAME])
    if len(names) != 1:
        raise UsageError(f"opening a model: got providers {names}, but OpenVINO runs alone. Name it only.")
    device = names[0].partition(":")[2].upper() or _CPU
    there = _core().available_devices
    if device not in (*there, *(name.partition(".")[0] for name in there), "AUTO"):
        raise UsageError(f"opening a model: OpenVINO has no device {device} here, only {', '.join(there)}. Take one.")
    return device


def _configure(device: str, precision: str, threads: int | None, runs: int) -> dict[str, str]:
    if precision not in _HINTS:
        raise UsageError(f"opening a model: got precision={precision!r}, expected {' or '.join(_HINTS)}.")
    if precision == "bf16" and "BF16" not in _core().get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise UsageError("opening a model: this processor has no instructions for bf16. Leave the precision out.")
    # By itself OpenVINO takes bf16 wherever the processor has it. Parity needs FP32, so it is asked for.
    config = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if device == _CPU:
        config["ENABLE_CPU_PINNING"] = "NO"  # two processes would be bound to the same cores
        # Snippets take the sum at the end of a residual block, so that it is not fused into its convolution.
        config["SNIPPETS_MODE"] = "DISABLE"
        if runs > 1:
            config["NUM_STREAMS"] = str(runs)
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
    return config


def _compile(model: str | Path | bytes, device: str, config: dict[str, str], quantized: bool) -> Any:
    """Returns a compiled model, from the cache if it is there."""
    kept = _cached(model, device, config) if device == _CPU and not has_external_weights(model) else None
    if kept is not None and kept.exists():
        with suppress(Exception):  # of another version, or damaged: compiled anew
            return _core().import_model(kept.read_bytes(), device, config)
    compiled = _core().compile_model(_read(model, quantized), device, config)
    if kept is not None:
        _keep(compiled, kept)
    return compiled


def _read(model: str | Path | bytes, quantized: bool) -> Any:
    """Reads a file; its plugin nodes are expanded, its quantizers rewritten."""
    if has_plugin_node(model):
        from .ort import expand_plugins

        with temporary_folder("openvino") as folder:
            expand_plugins(model, folder / "model.onnx")
            read = _core().read_model((folder / "model.onnx").read_bytes())
    else:
        read = _core().read_model(model if isinstance(model, bytes) else str(model))
    if quantized:
        from .fake_quantize import Quantizers

        Quantizers(read).rewrite()
    return read


def _cached(model: str | Path | bytes, device: str, config: dict[str, str]) -> Path:
    """Returns the place of the compiled form of a file in the cache."""
    from .._version import __version__

    core = _core()
    facts = [core.get_versions(device)[device].build_number, core.get_property(device, "FULL_DEVICE_NAME"), __version__]
    digest = hashlib.sha256(repr((facts, sorted(config.items()))).encode())
    digest.update(model if isinstance(model, bytes) else Path(model).read_bytes())
    return cache_folder(NAME) / f"{digest.hexdigest()}.blob"


def _keep(compiled: Any, target: Path) -> None:
    """Writes a compiled model to the cache, and removes those that were made longest ago."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = compiled.export_model()
        write_atomically(target, lambda path: path.write_bytes(content.getvalue()), RunnerError)
        made = sorted(target.parent.glob("*.blob"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in made[_KEPT_MODELS:]:
            old.unlink(missing_ok=True)
    except (OSError, RunnerError, RuntimeError) as error:
        warnings.warn(
            f"the compiled model is not kept, so that opening it takes as long again: {first_line(error)}", stacklevel=2
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns what OpenVINO raises into a RunnerError."""
    try:
        yield
    except (RunnerError, UsageError):
        raise
    except Exception as error:  # OpenVINO raises RuntimeError, and what pybind does
        raise RunnerError(
            f"opening {name}: OpenVINO cannot load it: {_reason(error)}. Use --provider cpu, or export it again."
        ) from error


def _reason(error: Exception) -> str:
    """Returns the line of OpenVINO's text that says what is wrong, without those that say where."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_NOISE)]
    return (said or [type(error).__name__])[-1][:300].rstrip(".")


def _info(tensor: Any) -> TensorInfo:
    shape = tuple(size.get_length() if size.is_static else None for size in tensor.partial_shape)
    return TensorInfo(tensor.element_type.to_dtype().name, shape)
