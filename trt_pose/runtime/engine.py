"""Loading of engines: compatibility checks, deserialization and execution contexts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..files import cache_folder, file_sha256, write_atomically
from ..gpu.device import Device
from ..trt.compatibility import check_description, device_fit, version_fit
from ..trt.flavor import Flavor, find_flavor
from ..trt.inspector import check_host_code, open_engine
from ..trt.logger import Log, open_log
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


@dataclass
class RuntimeContext:
    """An execution context and what belongs to it.

    Attributes:
        context: TensorRT's IExecutionContext; None when there is no memory for it.
        captures_itself: it launches CUDA graphs without being captured from outside.
        kernels: TensorRT-RTX's cache of compiled kernels.
        cache: the file of ``kernels``.
        config: what the context was made with, kept alive.
    """

    context: Any
    captures_itself: bool
    kernels: Any = None
    cache: Path | None = None
    config: Any = None

    def save_kernels(self) -> None:
        """Writes the compiled kernels for the next process; without a writable cache it compiles again."""
        if self.kernels is None or self.cache is None:
            return
        with suppress(OSError, EngineError):
            blob = bytes(self.kernels.serialize())
            if not self.cache.exists() or self.cache.stat().st_size != len(blob):
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.cache, lambda file: file.write_bytes(blob), EngineError)


def kernel_cache(sidecar: Sidecar, gpu: Device) -> Path:
    """Returns the file of TensorRT-RTX's compiled kernels of an engine on a GPU."""
    name = f"{sidecar.engine_sha256[:16]}-{gpu.gpu['compute_capability']}-{sidecar.flavor_version}.bin"
    return cache_folder("rtx") / name


def read_description(path: str | Path) -> tuple[PlanHeader, Sidecar]:
    """Reads the header and the sidecar of an engine; needs neither TensorRT nor a GPU.

    Raises:
        EngineError: the file is not a plan, or its sidecar is missing, damaged or of another engine.
    """
    header = read_header(path)
    sidecar = Sidecar.read(path)
    check_description(path, sidecar, header)
    return header, sidecar


def load_engine(
    path: str | Path, gpu: Device, library: str | Path | None = None, weights: str | Path | None = None
) -> LoadedEngine:
    """Loads plugins and deserializes an engine, after checking that it fits.

    Args:
        path: path of the engine.
        gpu: the GPU it runs on.
        library: plugin library, see :func:`trt_pose.trt.plugins.load_plugins`.
        weights: the ONNX file that an engine without weights is filled from; None looks beside the engine.

    Raises:
        EngineError: not a plan, no matching sidecar, a plan of another TensorRT or GPU, or a missing plugin.
        MissingDependencyError: TensorRT is not installed.
    """
    header, sidecar = read_description(path)
    flavor = find_flavor(header.flavor)
    _check_fit(path, header, sidecar, flavor, gpu)
    host_code = check_host_code(sidecar, path)
    load_plugins(flavor, library)
    missing = [name for name in sidecar.plugins if name not in registered(flavor)]
    if missing:
        raise EngineError(
            f"opening {path}: it calls {missing[0]}, which is not registered here. Build the library with make plugin,"
            " or name the one that has it."
        )
    log = open_log(flavor)
    with gpu.current(f"opening {path}"):
        engine = open_engine(log, path, host_code, f"opening {path}")
        if sidecar.options.get("strip_weights"):
            refit(log, engine, sidecar, path, weights)
    return LoadedEngine(str(path), flavor, gpu.index, engine, log, sidecar)


def _check_fit(path: str | Path, header: PlanHeader, sidecar: Sidecar, flavor: Flavor, gpu: Device) -> None:
    for fit in (version_fit(header, flavor, sidecar), device_fit(sidecar, gpu.gpu)):
        if fit.fine is False:
            name = Path(path).name
            raise EngineError(f"opening {path}: {fit.detail}. Build it here: trt-pose build MODEL.onnx -o {name}")


def make_context(flavor: Flavor, engine: Any, graphs: bool = False, cache: Path | None = None) -> RuntimeContext:
    """Creates an execution context.

    TensorRT-RTX compiles its kernels when a context first runs. It does so at once for each shape, keeps them in a
    cache, and captures CUDA graphs itself, anew when the shape changes.

    Args:
        flavor: the TensorRT of the engine.
        engine: the engine.
        graphs: launch CUDA graphs.
        cache: file of compiled kernels of TensorRT-RTX, which is read if it exists; None keeps none.
    """
    if not flavor.is_rtx or not hasattr(engine, "create_runtime_config"):
        return RuntimeContext(engine.create_execution_context(), captures_itself=False)
    trt = flavor.module
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    captures = graphs and hasattr(trt, "CudaGraphStrategy")
    if captures:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels = None
    if cache is not None and hasattr(config, "create_runtime_cache"):
        kernels = config.create_runtime_cache()
        with suppress(OSError):
            kernels.deserialize(cache.read_bytes())  # one of another version, GPU or driver is passed over
        config.set_runtime_cache(kernels)
    return RuntimeContext(engine.create_execution_context(config), captures, kernels, cache, config)


def refit(log: Log, engine: Any, sidecar: Sidecar, path: str | Path, weights: str | Path | None) -> None:
    """Fills an engine that was built without weights from the ONNX file it was built of.

    Raises:
        EngineError: there is no such file, it is another one, or TensorRT rejects it.
    """
    folder = Path(path).parent
    places = [Path(weights)] if weights else [folder / name for name in sidecar.weights if name]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise EngineError(
            f"opening {path}: it was built without weights (--stripWeights), and {places[0] if places else 'its file'}"
            " is missing. Put the ONNX file that it was built of beside it, or name it: weights=FILE."
        )
    if file_sha256(found) != sidecar.onnx_sha256:
        raise EngineError(f"opening {path}: {found} is not the file that it was built of. Name that one.")
    trt = log.flavor.module
    log.take()
    refitter = trt.Refitter(engine, log.logger)
    filled = trt.OnnxParserRefitter(refitter, log.logger).refit_from_file(str(found))
    if not filled or not refitter.refit_cuda_engine():
        missing = ", ".join(list(refitter.get_missing_weights())[:3]) if filled else ""
        reason = f"weights are missing: {missing}" if missing else log.reason()
        raise EngineError(f"opening {path}: filling it from {found}: {reason}. Build it again.")
