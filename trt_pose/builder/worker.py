"""The build itself, in a process of its own: TensorRT's parser and builder may crash, and two TensorRTs do not mix.

Run as ``python -m trt_pose.builder.worker JOB.json FD``: progress, the result or the error go to the file descriptor as
lines of JSON; TensorRT's own output goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from ..errors import EngineError, MissingDependencyError, PoseError
from ..nms.contract import DETECTION_NAME, EFFICIENT_NAME, NAME
from ..spec import ModelSpec
from ..trt.compatibility import check_buildable
from ..trt.flavor import Flavor, find_flavor
from ..trt.inspector import open_engine, read_layers
from ..trt.logger import Log
from ..trt.plugins import load_plugins, registered
from .calibrator import make_calibrator
from .options import BuildOptions


def main() -> None:
    _die_with_parent()
    job = json.loads(Path(sys.argv[1]).read_text())
    report = os.fdopen(int(sys.argv[2]), "w", buffering=1)
    try:
        for answer in _build(job, report):
            report.write(json.dumps({"done": answer}) + "\n")
    except PoseError as error:
        report.write(json.dumps({"error": str(error), "kind": type(error).__name__}) + "\n")
    except Exception as error:  # the process is the boundary: whatever went wrong becomes the parent's sentence
        traceback.print_exc()
        first = (str(error).strip().splitlines() or ["no reason"])[0][:300].rstrip(".")
        text = f"building the engine: {type(error).__name__}: {first}. The log has the rest."
        report.write(json.dumps({"error": text, "kind": "EngineError"}) + "\n")
    report.close()
    sys.stdout.flush()
    os._exit(0)  # TensorRT's destructors are not worth a crash after the result


def _die_with_parent() -> None:
    """A build does not outlive the command it belongs to, however that ended (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _build(job: dict[str, Any], report: TextIO) -> Any:
    """Yields the result, and again when the engine was inspected: a crash of the inspector loses only its findings."""
    spec, options = ModelSpec.from_json(job["spec"]), BuildOptions.from_dict(job["options"])
    flavor = find_flavor(options.flavor)
    if flavor.is_rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read by Polygraphy when it is imported
    options.check_flavor(flavor)
    check_buildable(spec, flavor)
    plugin = load_plugins(flavor, options.library)
    gpu = find_device(flavor)
    _check_gpu(flavor, options, gpu)
    started = time.monotonic()
    log = Log(flavor)
    operators = registered(flavor)
    builder = flavor.module.Builder(log.logger)
    plugins = spec.plugins_required
    if EFFICIENT_NAME in plugins and EFFICIENT_NAME not in operators:
        job["onnx"] = str(_with_own_nms(Path(job["onnx"]), Path(job["engine"]).parent))
        plugins = tuple(DETECTION_NAME if name == EFFICIENT_NAME else name for name in plugins)
    network, parser = _parse(builder, log, job)
    plan = _serialize(builder, network, parser, log, job, options, report)
    Path(job["engine"]).write_bytes(plan)
    done = {
        "flavor": flavor.name,
        "flavor_version": flavor.version,
        "gpu": gpu,
        "plugin": str(plugin) if {NAME, DETECTION_NAME} & set(plugins) else "",
        "plugins": plugins,
        "precision_found": None,
        "precision_note": "not inspected: no GPU here" if gpu is None else "not inspected: TensorRT crashed",
        "seconds": round(time.monotonic() - started, 2),
    }
    yield done
    if gpu is not None:
        found, note = _inspect(log, plan, options)
        yield {**done, "precision_found": found, "precision_note": note}


def _with_own_nms(path: Path, folder: Path) -> Path:
    """The model with our detection NMS in place of TensorRT's own; its weights inside it."""
    from ..graphs.file import load, save
    from ..nms.rewrite import replace_efficient_nms

    model = load(path)
    replace_efficient_nms(model)
    written = folder / "own_nms.onnx"
    save(model, written)
    return written


def find_device(flavor: Flavor) -> dict[str, str] | None:
    """The GPU here, or None. Raises MissingDependencyError where only cuda-bindings could tell, and is needed."""
    from ..gpu.device import find_gpu

    try:
        return find_gpu()
    except MissingDependencyError:
        if flavor.is_rtx:  # it builds ahead of time all the same
            return None
        raise


def _check_gpu(flavor: Flavor, options: BuildOptions, gpu: dict[str, str] | None) -> None:
    if gpu is not None:
        return
    if not flavor.is_rtx:
        raise EngineError(
            f"building with {flavor}: it times its kernels on the GPU, and there is none here. Build on the machine the"
            " engine is for, or ahead of time with trt-pose[rtx]."
        )
    if options.strip_weights or options.refit:
        raise EngineError(
            f"building with {flavor}: it strips and refits weights with a GPU only, and there is none here. Leave"
            " --stripWeights and --refit out, or build on a GPU host."
        )


def _parse(builder: Any, log: Log, job: dict[str, Any]) -> tuple[Any, Any]:
    trt = log.flavor.module
    flags = 0
    if job["implicit"] is None:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    # The path is for weights in files of their own beside it.
    if not parser.parse(Path(job["onnx"]).read_bytes(), job["onnx"]):
        details = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            name, kind = (str(getattr(error, part, lambda: "")()) for part in ("node_name", "node_operator"))
            details.append(f"node {name or error.node()} ({kind}): {error.desc()}")
        raise log.failure("parsing the ONNX file", details)
    return network, parser


def _serialize(
    builder: Any, network: Any, parser: Any, log: Log, job: dict[str, Any], options: BuildOptions, report: TextIO
) -> bytes:
    from polygraphy.backend.trt import EngineBytesFromNetwork, PostprocessConfig
    from polygraphy.exception import PolygraphyException

    calibrator = None
    if job["implicit"] is not None:
        batch = job["profile"][job["implicit"]["input"]][1][0] if job["profile"] else network.get_input(0).shape[0]
        calibrator = make_calibrator(log.flavor.module, job["implicit"]["cache"].encode(), batch)
        keep_precise(log.flavor.module, network, set(job["implicit"]["nodes"]))
    try:
        config = PostprocessConfig(
            _config(log.flavor, job, options, _monitor(log.flavor.module, report), calibrator),
            func=_serialize_plugins(options),
        )
        build = EngineBytesFromNetwork(
            (builder, network, parser), config=config, save_timing_cache=options.timing_cache
        )
        plan = bytes(build())
    except PolygraphyException as error:
        last = str(error).strip().splitlines()
        raise log.failure("building the engine", [] if log.errors else last[:1]) from error
    if calibrator is not None and calibrator.failure is not None:
        raise calibrator.failure
    return plan


def _config(flavor: Flavor, job: dict[str, Any], options: BuildOptions, monitor: Any, calibrator: Any) -> Any:
    from polygraphy.backend.trt import CreateConfig, Profile

    trt = flavor.module
    profiles = []
    if job["profile"]:
        profile = Profile()
        for name, (least, best, most) in job["profile"].items():
            profile.add(name, min=least, opt=best, max=most)
        profiles.append(profile)
    common: dict[str, Any] = {
        "profiles": profiles,
        "progress_monitor": monitor,
        "profiling_verbosity": getattr(trt.ProfilingVerbosity, options.profiling_verbosity),
        "memory_pool_limits": {getattr(trt.MemoryPoolType, name): size for name, size in options.memory_pools.items()},
        "builder_optimization_level": options.optimization_level,
        "refittable": options.refit,
        "strip_plan": options.strip_weights,
    }
    if flavor.is_rtx:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(**common, compute_capabilities=list(options.compute_capabilities) or None)
    if options.hardware_compatibility:
        if not hasattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility):
            raise EngineError(
                f"building with {flavor}: it has no --hardwareCompatibilityLevel {options.hardware_compatibility}."
                " Leave it out."
            )
        common["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility)
    common.update(version_compatible=options.version_compatible, load_timing_cache=options.timing_cache)
    if calibrator is not None:
        common.update(int8=True, fp16=True, calibrator=calibrator, precision_constraints="obey")
    return CreateConfig(**common)


def keep_precise(trt: Any, network: Any, nodes: set[str]) -> None:
    """Pins every floating-point layer outside the network to FP32: the decode is exact in implicit mode, too."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types = [layer.get_output(place).dtype for place in range(layer.num_outputs)]
        if layer.name in nodes or not types or any(kind != trt.float32 for kind in types):
            continue
        if layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
            continue
        layer.precision = trt.float32
        for place in range(layer.num_outputs):
            layer.set_output_type(place, trt.float32)


def _serialize_plugins(options: BuildOptions) -> Any:
    def serialize(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001 - Polygraphy's signature
        if options.plugins_to_serialize:
            config.plugins_to_serialize = list(options.plugins_to_serialize)

    return serialize


def _monitor(trt: Any, report: TextIO) -> Any:
    """TensorRT's progress, passed on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            report.write(json.dumps({"phase": phase, "parent": parent, "steps": steps}) + "\n")

        def step_complete(self, phase: str, step: int) -> bool:
            report.write(json.dumps({"phase": phase, "step": step}) + "\n")
            return True

        def phase_finish(self, phase: str) -> None:
            report.write(json.dumps({"phase": phase, "finished": True}) + "\n")

    return Monitor()


def _inspect(log: Log, plan: bytes, options: BuildOptions) -> tuple[dict[str, int] | None, str]:
    """Layers per output type, by TensorRT's engine inspector; the engine is good whatever becomes of this."""
    try:
        engine = open_engine(log.flavor.module, log.logger, plan, options.version_compatible)
        if engine is None:
            reason = "; ".join(log.errors[-1:]) or "no reason was given"
            return None, f"not inspected: the engine does not load on this GPU ({reason[:200]})"
        return read_layers(log.flavor.module, engine)
    except Exception as error:
        return None, f"not inspected: {type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    main()
