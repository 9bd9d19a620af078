"""Runner for ONNX Runtime, with its CPU, CUDA and TensorRT providers."""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from ..errors import RunnerError, UsageError, first_line
from ..files import check_readable
from ..optional import ONNXRUNTIME_GPU, OVER_ONNXRUNTIME
from ..spec import ModelSpec
from .onnx_file import has_plugin_node, with_functions
from .runner import Arrays, Reopening, Runner, TensorInfo, check_described, check_feeds, choose_threads

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_ELEMENTS = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool", "tensor(double)": "float64",
}  # fmt: skip
# This pass of ONNX Runtime converts floating-point biases to INT32, with the product of two scales as their scale. In
# FP16 the product underflows and keypoints scatter: 14 dB instead of 23 on the demonstration model, and no AP left.
_BIAS_OPTIMIZER = "WeightBiasQuantization"
# The first version whose CPU code is exact for quantizers with an FP16 scale. Version 1.29 moves joints of the
# demonstration model in INT8 with FP16 by 9 px, this one by 1 px.
FP16_QUANTIZERS = (1, 30)
_WARNINGS, _SILENT = 2, 4  # severities of messages; the first is the default
ort.disable_telemetry_events()  # some builds send events to their maker


class OnnxRunner:
    """Runner for ``.onnx`` files, based on ONNX Runtime.

    Args:
        model: path of the file, or the file's bytes.
        providers: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ONNX Runtime's own names, in order of preference; None takes
            the CPU.
        threads: number of threads within an operator; None takes one for each core that the process may use.
        precision: ``"fp32"``, the only one; the files have precisions of their own.

    Raises:
        RunnerError: missing or damaged file, a file without a description, an operator that no provider has, or a
            provider whose libraries do not load.
        UsageError: unknown provider or precision, threads below 1.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        providers: Sequence[str] | str | None = None,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        self._name = "model" if isinstance(model, bytes) else str(model)
        self._reopening = Reopening(model, threads)
        names = _choose([providers] if isinstance(providers, str) else providers, precision)
        options = silent_options()
        # By itself ONNX Runtime takes every core of the machine, also in a container that may use two.
        options.intra_op_num_threads = choose_threads(threads, self._name) or 0
        # Threads wait for the next operator in a loop, which is fast; after a run they would take what decoding needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not isinstance(model, bytes):
            check_readable(model, "opening", RunnerError)
        own = {"providers": names, "disabled_optimizers": [_BIAS_OPTIMIZER]}
        try:
            self._session: ort.InferenceSession | None = open_session(model, options, **own)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            if fault := _why_not(names[0]):
                raise RunnerError(f"opening {self._name}: {fault}") from error
            raise _load_error(self._name, error) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec = ModelSpec.from_metadata(metadata, self._name)
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        if not isinstance(model, bytes):  # parts of files, with the description of the whole, are given as bytes
            check_described(self.spec, self.inputs, self.outputs, self._name)
        self.providers = tuple(self._session.get_providers())
        if self.providers[0] != names[0]:  # ONNX Runtime falls back to the CPU by itself
            fault = _why_not(names[0]) or f"ONNX Runtime does not use {names[0]}. Use another provider."
            raise RunnerError(f"opening {self._name}: {fault}")
        self.runtime = f"ONNX Runtime {ort.__version__} {self.providers[0].removesuffix('ExecutionProvider')}"
        if self.providers[0] == _PROVIDERS["cpu"] and "int8" in self.spec.precision:
            self._warn(asked=providers is not None)

    def _warn(self, asked: bool) -> None:
        """Warns about INT8 on ONNX Runtime's CPU provider.

        Args:
            asked: the caller chose the provider; the warning about its speed is then left out.
        """
        if self.spec.precision == "int8+fp16" and not has_fp16_quantizers():
            warnings.warn(
                f"{self._name} is in int8+fp16, which ONNX Runtime {ort.__version__} computes inexactly on the CPU."
                f" Install onnxruntime {'.'.join(map(str, FP16_QUANTIZERS))} or newer; TensorRT is not affected.",
                stacklevel=4,
            )
        if not asked:
            warnings.warn(
                f"{self._name} is in {self.spec.precision}, which ONNX Runtime's own CPU code runs slower than FP32."
                " OpenVINO runs it several times as fast: pip install openvino.",
                stacklevel=4,
            )

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs the model on named arrays; returns its outputs by name.

        Raises:
            RunnerError: the arrays do not fit, the runner is closed, or ONNX Runtime failed.
        """
        session = self._session
        if session is None:
            raise RunnerError(f"running {self._name}: the runner is closed. Open it again.")
        check_feeds(feeds, self.inputs)
        names = list(self.outputs)
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise RunnerError(f"running {self._name}: ONNX Runtime failed: {first_line(error).rstrip('.')}.") from error

    def for_throughput(self) -> tuple[Runner, int]:
        """See :class:`ThroughputRunner` and :class:`Reopening`; on a GPU this runner and 1."""
        runs, threads = self._reopening.share_cores()
        if runs == 1 or self.providers[0] != _PROVIDERS["cpu"]:
            return self, 1
        return OnnxRunner(self._reopening.path, providers=self.providers, threads=threads), runs

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OnnxRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


def has_fp16_quantizers() -> bool:
    """True if this ONNX Runtime is exact on the CPU for files in INT8 with FP16."""
    return tuple(map(int, ort.__version__.split(".")[:2])) >= FP16_QUANTIZERS


def _choose(providers: Sequence[str] | None, precision: str) -> list[str]:
    """Returns the providers to open a session with, by ONNX Runtime's names. Raises if they cannot be used here."""
    if precision != "fp32":
        raise UsageError(f"opening a model: got precision={precision!r}, which ONNX Runtime lacks. Use OpenVINO.")
    names = [_PROVIDERS.get(name.lower(), name) for name in (providers or ["cpu"])]
    available = ort.get_available_providers()
    unknown = [name for name in names if name not in available]
    if unknown:
        raise UsageError(
            f"opening a model: providers {unknown} are not in this onnxruntime, which has {', '.join(available)}."
            f" Install the onnxruntime package that has them; for CUDA: {OVER_ONNXRUNTIME}"
        )
    return names


def silent_options() -> ort.SessionOptions:
    """Returns options of a session that prints nothing: its errors are raised as exceptions."""
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    return options


def open_session(model: str | Path | bytes, options: ort.SessionOptions, **own: Any) -> ort.InferenceSession:
    """Opens a session; adds the NMS functions to a file with a plugin node, which ONNX Runtime lacks."""
    own = {**own, "enable_fallback": 0}
    if not has_plugin_node(model):
        with _cuda_libraries(own["providers"]):
            return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, **own)
    if not isinstance(model, bytes):  # external weights are stored beside the model
        folder = str(Path(model).resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    with _cuda_libraries(own["providers"]):
        return ort.InferenceSession(with_functions(model), options, **own)


@contextmanager
def _cuda_libraries(providers: Sequence[str]) -> Iterator[None]:
    """Loads the libraries of CUDA from the packages of PyPI for the providers that need them, while nothing is printed.

    ONNX Runtime looks for them nowhere but in the system, and writes to standard error when they are not there.
    """
    if providers[0] == _PROVIDERS["cpu"]:
        yield
        return
    ort.set_default_logger_severity(_SILENT)
    try:
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def find_providers() -> dict[str, str]:
    """Returns the providers of this ONNX Runtime, by their short names, with the reason why one does not load or ""."""
    names = ort.get_available_providers()
    with _cuda_libraries(names):
        return {name.removesuffix("ExecutionProvider"): _why_not(name) for name in names}


def _why_not(provider: str) -> str:
    """Returns why the library of a provider does not load, and what to do; empty if it loads, or there is none."""
    short = provider.removesuffix("ExecutionProvider")
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{short.lower()}.so"
    try:
        if library.exists():
            ctypes.CDLL(str(library))
        return ""
    except OSError as error:
        cuda = str(getattr(ort, "cuda_version", "")).partition(".")[0]
        more = " and TensorRT 10" if provider == _PROVIDERS["tensorrt"] else ""
        return (
            f"ONNX Runtime's {short} provider does not load: {error}. It needs CUDA {cuda}, cuDNN 9{more}:"
            f" {ONNXRUNTIME_GPU}."
        )


def expand_plugins(model: str | Path | bytes, target: Path) -> None:
    """Writes a file with its plugin nodes expanded into operators of ONNX, for runtimes without functions.

    Raises:
        RunnerError: ONNX Runtime cannot load the file.
    """
    options = silent_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target)
    try:
        open_session(model, options, providers=[_PROVIDERS["cpu"]])
    except Exception as error:
        raise _load_error("model" if isinstance(model, bytes) else str(model), error) from error


def _load_error(name: str, error: Exception) -> RunnerError:
    return RunnerError(
        f"opening {name}: ONNX Runtime cannot load it: {first_line(error).rstrip('.')}. Export it again."
    )


def _info(item: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in item.shape)
    return TensorInfo(_ELEMENTS.get(item.type, item.type), shape)
