"""The engine build, which runs in a separate process because TensorRT's parser and builder may crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import EngineError, MissingDependencyError, first_line
from ..formats import find_format
from ..operators.contract import DETECTION_NAME, EFFICIENT_NAME, OWN
from ..spec import ModelSpec
from ..trt.compatibility import check_buildable
from ..trt.flavor import Flavor, element_name, find_flavor
from ..trt.inspector import open_engine, read_layers
from ..trt.logger import Log, open_log, start_builder
from ..trt.plugins import load_plugins, registered
from .calibrator import StoredImages, make_calibrator
from .options import BuildOptions

Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
# Takes ("start", phase, number of steps), ("step", phase, index) and ("end", phase, 0).
Report = Callable[[tuple[str, str, int]], None]


@dataclass(frozen=True)
class ImplicitInt8:
    """Input of TensorRT 10's calibrator.

    Attributes:
        cache: ranges in the text format of TensorRT's calibration cache; None lets TensorRT find them.
        images: folder of images for that, see :func:`trt_pose.builder.calibrator.write_images`.
        nodes: names of the network's nodes; all other layers stay in FP32.
        input: name of the image input.
    """

    cache: str | None
    images: Path | None
    nodes: tuple[str, ...]
    input: str


@dataclass(frozen=True)
class Job:
    """Parameters of one build.

    Attributes:
        onnx: path of the ONNX file.
        engine: path of the plan to write.
        log: path of the log file with the output of the process.
        spec: description of ``onnx``.
        options: the build options, with ``flavor`` set.
        profile: smallest, optimal and largest shape per input; empty for a fixed batch.
        implicit: input of the calibrator for TensorRT 10's implicit INT8; None for other builds.
    """

    onnx: Path
    engine: Path
    log: Path
    spec: ModelSpec
    options: BuildOptions
    profile: Profile
    implicit: ImplicitInt8 | None = None

    @property
    def rest(self) -> str:
        """Where the rest of an error is written, a sentence."""
        return f"{self.log} has the rest."


@dataclass(frozen=True)
class Built:
    """Facts about a finished build, for the description of the engine.

    Attributes:
        flavor: ``tensorrt`` or ``tensorrt_rtx``.
        flavor_version: version of TensorRT or TensorRT-RTX.
        gpu: name and compute capability of the build GPU; None without a GPU.
        plugin: source of the plugins; empty when the engine uses none of this package's plugins.
        plugins: names of the operators the engine requires.
        seconds: duration of parsing and building, s.
        elements: NumPy name of the element type of each input and output, by tensor name.
    """

    flavor: str
    flavor_version: str
    gpu: dict[str, str] | None
    plugin: str
    plugins: tuple[str, ...]
    seconds: float
    elements: dict[str, str] = field(default_factory=dict)


def build(job: Job, report: Report) -> Built:
    """Parses ``job.onnx``, builds the plan and writes it to ``job.engine``.

    Raises:
        EngineError: TensorRT rejected the file or the options; the message has its reason.
    """
    options = job.options
    flavor = find_flavor(options.flavor)
    if flavor.is_rtx:
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read by Polygraphy at import
    options.check_flavor(flavor)
    check_buildable(job.spec, flavor)
    plugin = load_plugins(flavor, options.library)
    gpu = find_device(flavor)
    _check_gpu(flavor, options, gpu)
    started = time.monotonic()
    log = open_log(flavor)
    log.shown = True
    start_builder(log)  # first: TensorRT keeps this logger, and not Polygraphy's
    onnx, plugins = job.onnx, job.spec.plugins_required
    if EFFICIENT_NAME in plugins and EFFICIENT_NAME not in registered(flavor):
        onnx = _with_own_nms(onnx, job.engine.parent)
        plugins = tuple(DETECTION_NAME if name == EFFICIENT_NAME else name for name in plugins)
    parsed = _parse(log, onnx, job)
    elements = _elements(flavor.module, parsed[1])
    job.engine.write_bytes(_serialize(parsed, log, job, report))
    own = set(OWN) & set(plugins)
    seconds = round(time.monotonic() - started, 2)
    return Built(flavor.name, flavor.version, gpu, str(plugin) if own else "", plugins, seconds, elements)


def inspect_layers(engine: Path, flavor_name: str, host_code: bool) -> tuple[dict[str, int] | None, str]:
    """Counts the layers of a new engine per output type with TensorRT's engine inspector.

    Returns:
        The counts and an empty note, or None and a note with the reason.
    """
    flavor = find_flavor(flavor_name)
    load_plugins(flavor)
    return read_layers(flavor.module, open_engine(open_log(flavor), engine, host_code, "loading the engine"))


def _with_own_nms(path: Path, folder: Path) -> Path:
    """Writes a copy of the model with DetectionNMS_TRT instead of EfficientNMS_TRT to ``folder``; returns its path."""
    from ..graphs.file import load, save
    from ..operators.rewrite import replace_efficient_nms

    written = folder / "own_nms.onnx"
    save(replace_efficient_nms(load(path)), written)
    return written


def find_device(flavor: Flavor) -> dict[str, str] | None:
    """Returns the GPU, or None without one.

    Raises:
        MissingDependencyError: cuda-core is not installed; TensorRT-RTX does not need it.
    """
    from ..gpu.device import find_gpu

    try:
        return find_gpu()
    except MissingDependencyError:
        if flavor.is_rtx:  # TensorRT-RTX can build without a GPU
            return None
        raise


def _check_gpu(flavor: Flavor, options: BuildOptions, gpu: dict[str, str] | None) -> None:
    if gpu is not None:
        return
    if not flavor.is_rtx:
        raise EngineError(
            f"building with {flavor}: it times its kernels on the GPU, and there is none here. Build on the machine the"
            " engine is for, or ahead of time with TensorRT-RTX (pip install tensorrt_rtx)."
        )
    if options.strip_weights or options.refit:
        raise EngineError(
            f"building with {flavor}: it strips and refits weights with a GPU only, and there is none here. Leave"
            " --stripWeights and --refit out, or build on a GPU host."
        )


def _parse(log: Log, onnx: Path, job: Job) -> tuple[Any, Any, Any]:
    """Parses a file and returns the builder, network and parser. Raises EngineError with the parser's errors."""
    from polygraphy.backend.trt import NetworkFromOnnxPath
    from polygraphy.exception import PolygraphyException

    strongly_typed = job.implicit is None
    try:
        builder, network, parser = NetworkFromOnnxPath(str(onnx), strongly_typed=strongly_typed)()
    except PolygraphyException as error:
        details = _parser_errors(log, onnx, strongly_typed)
        raise log.failure("parsing the ONNX file", details, job.rest) from error
    return builder, network, parser


def _elements(trt: Any, network: Any) -> dict[str, str]:
    """Returns the NumPy name of the element type of each input and output of a network."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    return {tensor.name: element_name(trt, tensor.dtype) for tensor in tensors}


def _parser_errors(log: Log, onnx: Path, strongly_typed: bool) -> list[str]:
    """Parses a file again and returns the errors per node, which Polygraphy does not report."""
    from polygraphy.backend.trt import CreateNetwork

    trt = log.flavor.module
    _, network = CreateNetwork(strongly_typed=strongly_typed)()
    parser = trt.OnnxParser(network, log.logger)
    parser.parse_from_file(str(onnx))
    details = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = (str(getattr(error, part, lambda: "")()) for part in ("node_name", "node_operator"))
        details.append(f"node {name or error.node()} ({operator}): {error.desc()}")
    return details


def _serialize(parsed: tuple[Any, Any, Any], log: Log, job: Job, report: Report) -> bytes:
    """Builds the plan of a parsed network. Raises EngineError when the build fails."""
    from polygraphy.backend.trt import EngineBytesFromNetwork, PostprocessConfig
    from polygraphy.exception import PolygraphyException

    trt, options, network = log.flavor.module, job.options, parsed[1]
    calibrator = None
    if job.implicit is not None:
        calibrator = _calibrator(trt, job, network)
        keep_precise(trt, network, set(job.implicit.nodes))
    try:
        config = PostprocessConfig(
            _config(log.flavor, job, _monitor(trt, report), calibrator), func=_set_flags(log.flavor, job)
        )
        plan = bytes(EngineBytesFromNetwork(parsed, config=config, save_timing_cache=options.timing_cache)())
    except PolygraphyException as error:
        details = log.take()
        raise log.failure("building the engine", details or [first_line(error)], job.rest) from error
    failure = getattr(calibrator, "failure", None)
    if failure is not None:
        raise failure
    return plan


def _calibrator(trt: Any, job: Job, network: Any) -> Any:
    """Returns the calibrator of an implicit INT8 build: with ranges, or with images for TensorRT."""
    from polygraphy.backend.trt import Calibrator

    given = cast("ImplicitInt8", job.implicit)
    batch = job.profile[given.input][1][0] if job.profile else network.get_input(0).shape[0]
    if given.cache is not None:
        return make_calibrator(trt, given.cache.encode(), batch)
    return Calibrator(StoredImages(cast("Path", given.images), given.input, batch), batch_size=batch)


def _config(flavor: Flavor, job: Job, monitor: Any, calibrator: Any) -> Any:
    from polygraphy.backend.trt import CreateConfig, Profile

    trt, options, profiles = flavor.module, job.options, []
    if job.profile:
        profile = Profile()
        for name, (smallest, optimal, largest) in job.profile.items():
            profile.add(name, min=smallest, opt=optimal, max=largest)
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
    common.update(
        version_compatible=options.version_compatible, load_timing_cache=options.timing_cache, tf32=options.tf32
    )
    if calibrator is not None:
        common.update(int8=True, fp16=True, calibrator=calibrator, precision_constraints="obey")
    return CreateConfig(**common)


def keep_precise(trt: Any, network: Any, nodes: set[str]) -> None:
    """Sets every FP32 layer whose name is not in ``nodes`` to FP32, so that implicit INT8 leaves the decode exact."""
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


def _set_flags(flavor: Flavor, job: Job) -> Any:
    """Returns a function that sets what Polygraphy has no argument for, or sets for one flavour only."""
    flags, options = flavor.module.BuilderFlag, job.options

    def set_flags(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001 - Polygraphy's signature
        (config.set_flag if options.tf32 else config.clear_flag)(flags.TF32)
        if options.plugins_to_serialize:
            config.plugins_to_serialize = list(options.plugins_to_serialize)
        # TensorRT-RTX: without it an engine may allocate while it runs, and such a run cannot be captured.
        if hasattr(flags, "REQUIRE_USER_ALLOCATION") and not find_format(job.spec).rows_vary:
            config.set_flag(flags.REQUIRE_USER_ALLOCATION)

    return set_flags


def _monitor(trt: Any, report: Report) -> Any:
    """Returns a progress monitor that passes TensorRT's progress to ``report``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            report(("start", phase, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            report(("step", phase, step))
            return True

        def phase_finish(self, phase: str) -> None:
            report(("end", phase, 0))

    return Monitor()
