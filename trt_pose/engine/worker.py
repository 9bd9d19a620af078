"""The build itself, in a process of its own: TensorRT's parser and builder may crash, and two TensorRTs do not mix.

Run as ``python -m trt_pose.engine.worker JOB.json FD``: progress, the result or the error go to the file descriptor as
lines of JSON; TensorRT's own output goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from ..errors import EngineError, PoseError
from ..types import ModelSpec
from .flavor import Flavor, find_flavor
from .options import BuildOptions
from .plugin import check_buildable, load_plugins
from .python_plugin import take_error

_ERRORS_SHOWN = 3
# How the engine inspector's versions write a type, and how we do.
_TYPES = {
    "Int8": "INT8", "INT8": "INT8", "Half": "FP16", "FP16": "FP16", "Float": "FP32", "FP32": "FP32", "Int32": "INT32",
    "Int64": "INT64",
}  # fmt: skip


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    report = os.fdopen(int(sys.argv[2]), "w", buffering=1)
    answer: dict[str, Any]
    try:
        answer = {"done": _build(job, report)}
    except PoseError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    report.write(json.dumps(answer) + "\n")
    report.close()
    sys.stdout.flush()
    os._exit(0)  # TensorRT's destructors are not worth a crash after the result


def _build(job: dict[str, Any], report: TextIO) -> dict[str, Any]:
    spec, options = ModelSpec.from_json(job["spec"]), BuildOptions.from_dict(job["options"])
    flavor = find_flavor(options.flavor)
    if flavor.is_rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read by Polygraphy when it is imported
    options.check_flavor(flavor)
    check_buildable(spec, flavor)
    plugin = load_plugins(flavor, options.library)
    gpu = _gpu()
    if gpu is None and not flavor.is_rtx:
        raise EngineError(
            f"building with {flavor}: it times its kernels on the GPU, and there is none here. Build on the machine the"
            " engine is for, or ahead of time with trt-pose[rtx]."
        )
    if gpu is None and (options.strip_weights or options.refit):
        raise EngineError(
            f"building with {flavor}: it strips and refits weights with a GPU only, and there is none here. Leave"
            " --stripWeights and --refit out, or build on a GPU host."
        )
    started = time.monotonic()
    log = Log(flavor.module)
    builder = flavor.module.Builder(log.logger)
    network, parser = _parse(flavor, builder, log, job)
    plan = _serialize(flavor, builder, network, parser, log, job, options, report)
    Path(job["engine"]).write_bytes(plan)
    found, note = _layers(flavor, log, job["engine"], gpu)
    return {
        "flavor": flavor.name,
        "flavor_version": flavor.version,
        "gpu": gpu,
        "plugin": str(plugin) if spec.plugins_required else "",
        "precision_found": found,
        "precision_note": note,
        "seconds": round(time.monotonic() - started, 2),
    }


class Log:
    """TensorRT's logger: everything to standard error, the errors kept for the message."""

    def __init__(self, trt: Any) -> None:
        errors: list[str] = []
        severities = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in severities:
                    errors.append(" ".join(message.split()))
                sys.stderr.write(f"[{severity.name}] {message}\n")

        self.errors, self.logger = errors, Logger()

    def failure(self, action: str, flavor: Flavor, details: list[str]) -> EngineError:
        """The error of a step, with the plugin's own reason where a callback failed."""
        reason = take_error()
        parts = [*([str(reason)] if reason else []), *details, *self.errors]
        shown = "; ".join(dict.fromkeys(part[:300].rstrip(".") for part in parts[:_ERRORS_SHOWN]))
        return EngineError(f"{action} with {flavor}: {shown or 'no reason was given'}. The log has the rest.")


def _parse(flavor: Flavor, builder: Any, log: Log, job: dict[str, Any]) -> tuple[Any, Any]:
    trt = flavor.module
    flags = 0
    if job["strongly_typed"]:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(Path(job["onnx"]).read_bytes()):
        details = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            name, kind = (str(getattr(error, part, lambda: "")()) for part in ("node_name", "node_operator"))
            details.append(f"node {name or error.node()} ({kind}): {error.desc()}")
        raise log.failure("parsing the ONNX file", flavor, details)
    return network, parser


def _serialize(
    flavor: Flavor,
    builder: Any,
    network: Any,
    parser: Any,
    log: Log,
    job: dict[str, Any],
    options: BuildOptions,
    report: TextIO,
) -> bytes:
    from polygraphy.backend.trt import EngineBytesFromNetwork, PostprocessConfig
    from polygraphy.exception import PolygraphyException

    config = PostprocessConfig(
        _config(flavor, job, options, _monitor(flavor.module, report)), func=_serialize_plugins(options)
    )
    build = EngineBytesFromNetwork((builder, network, parser), config=config, save_timing_cache=options.timing_cache)
    try:
        return bytes(build())
    except PolygraphyException as error:
        last = str(error).strip().splitlines()
        raise log.failure("building the engine", flavor, [] if log.errors else last[:1]) from error


def _config(flavor: Flavor, job: dict[str, Any], options: BuildOptions, monitor: Any) -> Any:
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
        common["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility)
    common.update(version_compatible=options.version_compatible, load_timing_cache=options.timing_cache)
    if job["implicit"]:
        common.update(int8=True, fp16=True, calibrator=_calibrator(trt, job["implicit"]))
    return CreateConfig(**common)


def _calibrator(trt: Any, implicit: dict[str, Any]) -> Any:
    """TensorRT 10's entropy calibrator, fed with batches that were checked and written down before.

    Polygraphy swallows what a loader raises inside TensorRT's callback: reading arrays that exist leaves nothing to
    raise. A cache that is there is used instead of the batches.
    """
    import numpy as np
    from polygraphy.backend.trt import Calibrator

    files = sorted(Path(implicit["batches"]).glob("*.npy"))
    batches = ({implicit["input"]: np.load(file)} for file in files)
    return Calibrator(batches, cache=implicit["cache"], BaseClass=trt.IInt8EntropyCalibrator2)


def _serialize_plugins(options: BuildOptions) -> Any:
    def serialize(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001 - Polygraphy's signature
        if options.plugins_to_serialize:
            config.plugins_to_serialize = list(options.plugins_to_serialize)

    return serialize


def _monitor(trt: Any, report: TextIO) -> Any:
    """TensorRT's progress, passed on; None before 10.0."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

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


def _gpu() -> dict[str, str] | None:
    from ..errors import MissingDependencyError
    from ..runtime.cuda import find_gpu

    try:
        return find_gpu()
    except MissingDependencyError:
        return None


def _layers(flavor: Flavor, log: Log, path: str, gpu: Any) -> tuple[dict[str, int] | None, str]:
    """Layers per output type, by TensorRT's engine inspector, which needs the GPU the engine is for."""
    if gpu is None:
        return None, "not inspected: no GPU here"
    trt = flavor.module
    runtime = trt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        return None, "not inspected: the engine does not load on this GPU"
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return count_types(json.loads(text))


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
            kind = next((name for word, name in _TYPES.items() if word in text), text)
            counts[kind] = counts.get(kind, 0) + 1
    return counts, ""


if __name__ == "__main__":
    main()
