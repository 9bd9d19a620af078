"""Runner for ONNX Runtime, with its CPU, OpenVINO, CUDA and TensorRT providers."""

from __future__ import annotations

import json
import mmap
import os
import threading
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from ..errors import MissingDependencyError, RunnerError, UsageError, first_line
from ..files import check_readable
from ..limits import usable_cores
from ..nms import contract
from ..spec import ModelSpec
from .runner import Arrays, TensorInfo, check_described, check_feeds

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_OPENVINO = "openvino"
_ELEMENTS = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool", "tensor(double)": "float64",
}  # fmt: skip
_PLUGIN = "trt_pose_openvino"  # name of the plugin library, which is registered once per process
# This pass of ONNX Runtime converts floating-point biases to INT32, with the product of two scales as their scale. In
# FP16 the product underflows and keypoints scatter: 14 dB instead of 23 on the demonstration model, and no AP left.
_BIAS_OPTIMIZER = "WeightBiasQuantization"
# The first version whose CPU code is exact for quantizers with an FP16 scale. Version 1.29 moves joints of the
# demonstration model in INT8 with FP16 by 9 px, this one by 1 px.
FP16_QUANTIZERS = (1, 30)
_OP_TYPE = 0x22  # tag of NodeProto.op_type in protobuf: field 4, length-delimited
ort.disable_telemetry_events()  # some builds send events to their maker
_registering, _registered = threading.Lock(), set[str]()


class OnnxRunner:
    """Runner for ``.onnx`` files, based on ONNX Runtime.

    Args:
        model: path of the file, or the file's bytes.
        providers: ``"cpu"``, ``"openvino"``, ``"cuda"``, ``"tensorrt"`` or ONNX Runtime's own names, in order of
            preference; None takes OpenVINO if it is installed and supports this CPU, else ONNX Runtime's CPU provider.
        threads: number of threads within an operator; None takes one for each core that the process may use.
        precision: ``"fp32"``, or ``"bf16"`` for OpenVINO on CPUs that have it (faster, less exact).

    Raises:
        RunnerError: missing or damaged file, a file without a description, or an operator that no provider has.
        MissingDependencyError: OpenVINO is needed but not installed, or does not support this CPU.
        UsageError: bf16 without OpenVINO, OpenVINO with other providers, unknown provider, threads below 1.
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
        names = _choose([providers] if isinstance(providers, str) else providers, precision)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised as exceptions
        if threads is not None and threads < 1:
            raise UsageError(f"opening {self._name}: got threads={threads}, expected 1 or more.")
        cores = usable_cores()
        if threads is not None or cores < (os.cpu_count() or cores):
            # By itself ONNX Runtime takes every core of the machine, also in a container that may use two.
            options.intra_op_num_threads = threads or cores
        if not isinstance(model, bytes):
            check_readable(model, "opening", RunnerError)
        if _OPENVINO in names:
            _add_openvino(options, precision, threads)
        own = {} if _OPENVINO in names else {"providers": names, "disabled_optimizers": [_BIAS_OPTIMIZER]}
        try:
            self._session: ort.InferenceSession | None = _open(model, options, own)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _load_error(self._name, error) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec = ModelSpec.from_metadata(metadata, self._name)
        self.inputs = {item.name: _info(item) for item in self._session.get_inputs()}
        self.outputs = {item.name: _info(item) for item in self._session.get_outputs()}
        if not isinstance(model, bytes):  # parts of files, with the description of the whole, are given as bytes
            check_described(self.spec, self.inputs, self.outputs, self._name)
        self.providers = tuple(self._session.get_providers())
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
                " Its OpenVINO provider is fast, but missing, or without a CPU of its own here:"
                " pip install onnxruntime-ep-openvino.",
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


def openvino_devices() -> list[Any]:
    """Returns OpenVINO's CPU devices; empty when the provider is not installed or does not support this CPU."""
    try:
        import onnxruntime_ep_openvino as openvino
    except ImportError:
        return []
    with _registering:
        devices = _cpu_devices(openvino.get_ep_name())
        if not devices and _PLUGIN not in _registered:
            ort.register_execution_provider_library(_PLUGIN, openvino.get_library_path())
            _registered.add(_PLUGIN)
            devices = _cpu_devices(openvino.get_ep_name())
    return devices


def _cpu_devices(name: str) -> list[Any]:
    return [
        device
        for device in ort.get_ep_devices()
        if device.ep_name == name and device.ep_metadata.get("ov_device", "CPU").startswith("CPU")
    ]


def _choose(providers: Sequence[str] | None, precision: str) -> list[str]:
    """Returns the providers to open a session with, by ONNX Runtime's names. Raises if they cannot be used here."""
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"opening a model: got precision={precision!r}, expected fp32 or bf16.")
    if providers is None:
        names = [_OPENVINO] if openvino_devices() else [_PROVIDERS["cpu"]]
    else:
        names = [_parse_provider(name) for name in providers]
    _check_available(names, precision)
    _check_combination(names, precision)
    return names


def _parse_provider(name: str) -> str:
    """Returns ONNX Runtime's name for a short name, in any case; other names are returned as they are."""
    return {**_PROVIDERS, _OPENVINO: _OPENVINO, "openvinoexecutionprovider": _OPENVINO}.get(name.lower(), name)


def _check_available(names: list[str], precision: str) -> None:
    if (_OPENVINO in names or precision == "bf16") and not openvino_devices():
        raise MissingDependencyError(
            "opening a model with OpenVINO: it is not installed, or finds no CPU of its own here (it takes Intel's)."
            " Run: pip install onnxruntime-ep-openvino, or use providers=['cpu'] and fp32."
        )
    available = [_OPENVINO, *ort.get_available_providers()]
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise UsageError(
            f"opening a model: providers {unknown or names} are not in this onnxruntime, which has"
            f" {', '.join(available)}. Install the onnxruntime package that has them (onnxruntime-gpu for CUDA)."
        )


def _check_combination(names: list[str], precision: str) -> None:
    if _OPENVINO in names and len(names) > 1:
        raise UsageError("opening a model: OpenVINO runs alone here. Use providers=['openvino'], or leave it out.")
    if precision == "bf16" and _OPENVINO not in names:
        raise UsageError("opening a model: precision bf16 needs OpenVINO. Use providers=['openvino'].")


def _add_openvino(options: ort.SessionOptions, precision: str, threads: int | None) -> None:
    # The default of the provider is bf16 on CPUs with AMX or AVX512-BF16. Parity needs f32, so it is set explicitly.
    config = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    options.add_provider_for_devices(openvino_devices()[:1], {"load_config": json.dumps({"CPU": config})})


def _open(model: str | Path | bytes, options: ort.SessionOptions, own: dict[str, Any]) -> ort.InferenceSession:
    """Opens a session; adds the NMS functions to a file with a plugin node, which ONNX Runtime lacks."""
    if not _has_plugin_node(model):
        return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, **own)
    if not isinstance(model, bytes):  # external weights are stored beside the model
        folder = str(Path(model).resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    functions = resources.files("trt_pose").joinpath(contract.FUNCTIONS).read_bytes()
    return ort.InferenceSession(data + functions, options, **own)  # protobuf merges concatenated messages


def _has_plugin_node(model: str | Path | bytes) -> bool:
    """True if the operator name of an NMS plugin is in the file: the string, with its length, as protobuf stores it."""
    fields = [bytes([_OP_TYPE, len(name)]) + name.encode() for name in contract.OPERATORS]
    if isinstance(model, bytes):
        return any(field in model for field in fields)
    with Path(model).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(field) >= 0 for field in fields)


def _load_error(name: str, error: Exception) -> RunnerError:
    return RunnerError(
        f"opening {name}: ONNX Runtime cannot load it: {first_line(error).rstrip('.')}. Export it again."
    )


def _info(item: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in item.shape)
    return TensorInfo(_ELEMENTS.get(item.type, item.type), shape)
