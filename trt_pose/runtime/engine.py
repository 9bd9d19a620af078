"""Loading of engines: compatibility checks, deserialization and execution contexts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..gpu.device import Device
from ..trt.compatibility import check_description, device_fit, version_fit
from ..trt.flavor import Flavor, find_flavor
from ..trt.inspector import open_engine
from ..trt.logger import Log
from ..trt.plugins import load_plugins, registered
from ..trt.sidecar import PlanHeader, Sidecar, read_header


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialized engine, which several runners may share.

    Attributes:
        path: path of the engine file.
        flavor: the TensorRT that loaded it.
        device: index of the GPU.
        engine: TensorRT's ICudaEngine.
        log: the logger of its runtime.
        sidecar: the description beside it.
    """

    path: str
    flavor: Flavor
    device: int
    engine: Any
    log: Log
    sidecar: Sidecar


def read_description(path: str | Path) -> tuple[PlanHeader, Sidecar]:
    """Reads the header and the sidecar of an engine; needs neither TensorRT nor a GPU.

    Raises:
        EngineError: the file is not a plan, or its sidecar is missing, damaged or of another engine.
    """
    header = read_header(path)
    sidecar = Sidecar.read(path)
    check_description(path, sidecar, header)
    return header, sidecar


def load_engine(path: str | Path, gpu: Device, library: str | Path | None = None) -> LoadedEngine:
    """Loads plugins and deserializes an engine, after checking that it fits.

    Raises:
        EngineError: not a plan, no matching sidecar, a plan of another TensorRT or GPU, or a missing plugin.
        MissingDependencyError: TensorRT is not installed.
    """
    header, sidecar = read_description(path)
    flavor = find_flavor(header.flavor)
    _check_fit(path, header, sidecar, flavor, gpu)
    load_plugins(flavor, library)
    missing = [name for name in sidecar.plugins if name not in registered(flavor)]
    if missing:
        raise EngineError(
            f"opening {path}: it calls {missing[0]}, which is not registered here. Build the library with make plugin,"
            " or name the one that has it."
        )
    log = Log(flavor, shown=False)
    with gpu.current():
        host_code = bool(sidecar.options.get("version_compatible"))
        engine = open_engine(flavor.module, log.logger, Path(path).read_bytes(), host_code)
    if engine is None:
        reason = "; ".join(log.errors[:2]) or "no reason was given"
        raise EngineError(f"opening {path} with {flavor}: {reason[:400]}. Build it on this machine.")
    return LoadedEngine(str(path), flavor, gpu.index, engine, log, sidecar)


def _check_fit(path: str | Path, header: PlanHeader, sidecar: Sidecar, flavor: Flavor, gpu: Device) -> None:
    for fit in (version_fit(header, flavor, sidecar), device_fit(sidecar, gpu.gpu)):
        if fit.fine is False:
            name = Path(path).name
            raise EngineError(f"opening {path}: {fit.detail}. Build it here: trt-pose build MODEL.onnx -o {name}")


def make_context(flavor: Flavor, engine: Any) -> Any:
    """Creates an execution context, in which TensorRT-RTX compiles for a shape at once, before a graph is captured."""
    if not flavor.is_rtx or not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = flavor.module.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)
