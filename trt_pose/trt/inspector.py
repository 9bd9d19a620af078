"""Inspection of engines: deserialization, tensors, and the data types of the layers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..documents import parse
from ..errors import EngineError
from ..files import file_sha256
from .flavor import Flavor, find_flavor
from .isolated import call
from .logger import Log, open_log, start_runtime
from .plugins import load_plugins
from .sidecar import Sidecar

_TIMEOUT_S = 300

# Names of data types in the versions of the engine inspector, and the names used here.
_TYPES = {
    "int8": "INT8", "half": "FP16", "fp16": "FP16", "float": "FP32", "fp32": "FP32", "bf16": "BF16", "bfloat16": "BF16",
    "fp8": "FP8", "fp4": "FP4", "int4": "INT4", "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL",
}  # fmt: skip


# Set to 1, it lets engines bring code of their own.
HOST_CODE = "TRT_POSE_ALLOW_HOST_CODE"


def open_engine(log: Log, path: str | Path, host_code: bool, doing: str) -> Any:
    """Deserializes the plan of an engine file.

    Args:
        log: the log of the TensorRT that reads it.
        path: the engine file.
        host_code: allow code in the plan; version-compatible plans hold their lean runtime and plugins.
        doing: how the message of an error begins.

    Raises:
        EngineError: TensorRT does not start, or rejects the plan.
    """
    runtime = start_runtime(log)
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        reason = log.reason()
        raise EngineError(f"{doing} with {log.flavor}: {reason}. {_advice(log.flavor, reason)}")
    return engine


def _advice(flavor: Flavor, reason: str) -> str:
    # TensorRT-RTX builds for its own list of GPUs wherever it runs; Hopper (9.0) is not among them.
    if flavor.is_rtx and "does not support this compute capability" in reason:
        return "TensorRT-RTX has no code for this GPU: install TensorRT and build it with --tensorrt tensorrt."
    return "Build it on this machine."


def read_layers(trt: Any, engine: Any) -> tuple[dict[str, int] | None, str]:
    """Returns the number of layers per data type, or None and the reason."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return count_types(parse(text))


def count_types(information: dict[str, Any]) -> tuple[dict[str, int] | None, str]:
    """Counts the layers of an inspector's JSON by the type of their first output.

    TensorRT up to 10 writes ``Format/Datatype: "Int8 NC/32HW32"``, from 11 on ``Datatype`` alone.
    """
    counts: dict[str, int] = {}
    for layer in information.get("Layers", []):
        if not isinstance(layer, dict):
            return None, "not inspected: the engine was built without detailed profiling verbosity"
        for output in layer.get("Outputs", [])[:1]:
            text = str(output.get("Datatype") or output.get("Format/Datatype") or "unknown")
            words = re.findall(r"[a-z0-9]+", text.lower())
            kind = next((_TYPES[word] for word in words if word in _TYPES), text)
            counts[kind] = counts.get(kind, 0) + 1
    return (counts, "") if counts else (None, "not inspected: the engine holds no layer information")


def probe(path: str | Path, flavor: str) -> dict[str, Any]:
    """Opens an engine in a separate process and returns TensorRT's information about it.

    Args:
        path: path of the engine.
        flavor: ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        A dict of ``tensors`` (mode, dtype and shape by name), ``layers`` (number per data type, or None when unknown),
        ``note`` (why ``layers`` is None) and ``device_memory_bytes``.

    Raises:
        EngineError: the engine does not load here, with TensorRT's reason, or TensorRT crashed or timed out.
    """
    return call(_describe, str(path), flavor, doing=f"opening {path}", timeout_s=_TIMEOUT_S)


def _describe(path: str, name: str) -> dict[str, Any]:
    flavor = find_flavor(name)
    load_plugins(flavor)
    log = open_log(flavor)
    log.shown = True
    engine = open_engine(log, path, _host_code(path), f"opening {path}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    layers, note = read_layers(flavor.module, engine)
    return {
        "tensors": {
            item: {
                "mode": engine.get_tensor_mode(item).name.lower(),
                "dtype": engine.get_tensor_dtype(item).name.lower(),
                "shape": list(engine.get_tensor_shape(item)),
            }
            for item in names
        },
        "layers": layers,
        "note": note,
        "device_memory_bytes": getattr(engine, "device_memory_size_v2", None),
    }


def allow_host_code() -> None:
    """Lets engines of this process, and of those it starts, bring code of their own, which runs on this machine."""
    os.environ[HOST_CODE] = "1"


def check_host_code(sidecar: Sidecar, path: str | Path) -> bool:
    """Returns whether an engine brings code of its own, as version-compatible engines do (a runtime, plugins).

    A description is no permission: it comes along with the engine.

    Raises:
        EngineError: it does, and nobody allowed it.
    """
    brings = bool(sidecar.options.get("version_compatible"))
    if brings and os.environ.get(HOST_CODE) != "1":
        raise EngineError(
            f"opening {path}: it is version compatible, so it brings code of its own that runs on this machine. If you"
            f" trust who built it, add --allow-host-code, or set {HOST_CODE}=1."
        )
    return brings


def _host_code(path: str) -> bool:
    try:
        sidecar = Sidecar.read(path)
    except EngineError:
        return False
    return sidecar.engine_sha256 == file_sha256(path) and check_host_code(sidecar, path)
