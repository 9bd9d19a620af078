"""An ONNX file to an engine and its description."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID

from .. import errors
from .._version import __version__
from ..errors import EngineError, MissingDependencyError, PoseError, UsageError
from ..files import check_writable, file_sha256, write_atomically
from ..progress import progress_bar, step
from ..types import ModelSpec, Precision
from .flavor import Flavor, describe_flavor
from .options import BuildOptions
from .plan import SUFFIXES, Sidecar, sidecar_path
from .plugin import check_buildable

# What a user may ask for; on a GPU the fast form of INT8 has FP16 where INT8 does not apply.
PRECISIONS = {
    "fp32": Precision.FP32,
    "fp16": Precision.FP16,
    "int8": Precision.INT8_FP16,
    "int8+fp16": Precision.INT8_FP16,
    "best": Precision.INT8_FP16,
}


@dataclass(frozen=True)
class _Prepared:
    """The file TensorRT gets: where it lies, what it is, what was done to it."""

    path: Path
    spec: ModelSpec
    report: dict[str, Any] | None = None
    implicit: dict[str, Any] | None = None


@dataclass(frozen=True)
class Quantizing:
    """How a plain FP32 file is brought to the precision asked for; see :class:`trt_pose.quantize.QuantizeOptions`.

    Attributes:
        data: images to calibrate on. options: a QuantizeOptions; its precision is the build's.
        verify: called with the original and the quantized ONNX file before the build; what it returns goes into the
            description (see :func:`trt_pose.compare.compare`).
    """

    data: Any = None
    options: Any = None
    verify: Callable[[Path, Path], dict[str, Any]] | None = None


def build_engine(
    onnx: str | Path,
    engine: str | Path,
    precision: str | None = None,
    quantizing: Quantizing | None = None,
    options: BuildOptions | None = None,
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> Sidecar:
    """Builds ``engine`` and writes its description beside it, ``engine`` + ``.json``; TensorRT's log goes to ``.log``.

    The build runs in a process of its own. A plain FP32 file is quantized first, since TensorRT 11 and TensorRT-RTX
    have no switches for it: the types of the graph are the precision.

    Args:
        onnx: a file exported by trt_pose. engine: the ``.engine`` to write; whole or not at all.
        precision: ``fp32``, ``fp16``, ``int8`` (with FP16 beside it) or ``best``; None takes the file as it is.
        quantizing: images and options of an INT8 build.
        options: everything else.
        measure: called with the file, what was quantized of it and the engine; what it returns goes into the
            description as their accuracy (see :func:`trt_pose.evaluate.accuracy`).

    Raises:
        UsageError, CalibrationError, ExportError: wrong options, data or file.
        EngineError: TensorRT's complaint. MissingDependencyError: no TensorRT.
    """
    onnx, engine = Path(onnx), Path(engine)
    options, quantizing = options or BuildOptions(), quantizing or Quantizing()
    if engine.suffix.lower() not in SUFFIXES:
        got = engine.suffix or "none"
        raise UsageError(f"building {engine}: got the suffix {got!r}, expected .engine. Correct it.")
    flavor = describe_flavor(options.flavor)
    options = replace(options, flavor=flavor.name)
    options.check_flavor(flavor)
    _check_packages(flavor)
    for path in (engine, sidecar_path(engine), *([Path(options.timing_cache)] if options.timing_cache else [])):
        check_writable(path, EngineError)  # before the work, not after
    with tempfile.TemporaryDirectory(prefix="trt_pose_build_") as folder:
        prepared = _prepare(onnx, precision, quantizing, options, Path(folder))
        comparison = quantizing.verify(onnx, prepared.path) if quantizing.verify else None
        accuracy = _measure_files(measure, onnx, prepared.path) if measure else None
        job: dict[str, Any] = {
            "onnx": str(prepared.path.resolve()),
            "engine": str(Path(folder) / "engine"),
            "spec": prepared.spec.to_json(),
            "options": options.to_dict(),
            "profile": options.profile(prepared.spec),
            "implicit": prepared.implicit,
        }
        done = _run(job, Path(folder), Path(f"{engine}.log"))
        sidecar = replace(
            _describe(onnx, precision, prepared, options, job, done), comparison=comparison, accuracy=accuracy
        )
        built = Path(job["engine"])
        # The old description goes first: an engine without one is better than one with another's.
        sidecar_path(engine).unlink(missing_ok=True)
        write_atomically(engine, lambda path: path.write_bytes(built.read_bytes()), EngineError)
    _write_sidecar(sidecar, engine)
    if measure is not None:
        sidecar = replace(sidecar, accuracy={**(accuracy or {}), "engine": _measure_engine(measure, engine)})
        _write_sidecar(sidecar, engine)
    return sidecar


def _write_sidecar(sidecar: Sidecar, engine: Path) -> None:
    write_atomically(sidecar_path(engine), lambda path: path.write_text(sidecar.to_json()), EngineError)


def _measure_files(measure: Callable[[Path], dict[str, Any]], onnx: Path, prepared: Path) -> dict[str, Any]:
    found = {"file": measure(onnx)}
    return found if prepared == onnx else {**found, "quantized": measure(prepared)}


def _measure_engine(measure: Callable[[Path], dict[str, Any]], engine: Path) -> dict[str, Any]:
    """The engine's accuracy, or why it was not measured: it may be for another GPU than is here."""
    try:
        return measure(engine)
    except PoseError as error:
        return {"not_measured": str(error)}


def _check_packages(flavor: Flavor) -> None:
    """Raises MissingDependencyError before a calibration, not after it."""
    extra = "rtx" if flavor.is_rtx else "tensorrt"
    for package in ("onnx", "polygraphy"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"building an engine: {package} is not installed. Run: pip install 'trt-pose[{extra}]'"
            )


def _prepare(
    onnx: Path, precision: str | None, quantizing: Quantizing, options: BuildOptions, folder: Path
) -> _Prepared:
    """The file TensorRT gets, in the precision asked for."""
    from ..quantize.document import load, read_spec, save

    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"--precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}. Correct it.")
    with step(f"reading {onnx.name}"):
        proto = load(onnx)
    spec = read_spec(proto)
    check_buildable(spec, describe_flavor(options.flavor))  # before a calibration, not after
    options.profile(spec)
    has = Precision.parse(spec.precision)
    wanted = PRECISIONS[precision] if precision else has
    quantizes = has is Precision.FP32 and wanted is not Precision.FP32
    _check_used(quantizing, quantizes and wanted.has_int8, quantizes and options.int8_mode == "explicit")
    if options.int8_mode == "implicit":
        return _prepare_implicit(onnx, proto, spec, wanted, quantizing)
    if has is wanted:
        return _Prepared(onnx, spec)
    if has is not Precision.FP32 and not (has is Precision.INT8 and wanted is Precision.INT8_FP16):
        raise UsageError(
            f"building {onnx} in {precision}: the file is in {has} already. Leave --precision out, or build of the FP32"
            " file."
        )
    from ..quantize import QuantizeOptions, quantize_model

    made, report = quantize_model(
        proto, quantizing.data, replace(quantizing.options or QuantizeOptions(), precision=wanted)
    )
    path = folder / "quantized.onnx"
    save(made, path)
    return _Prepared(path, read_spec(made), asdict(report))


def _check_used(quantizing: Quantizing, calibrates: bool, compares: bool) -> None:
    """Raises UsageError for options of a quantization that does not happen: silence would be taken for consent."""
    chosen = quantizing.options
    layers = chosen is not None and (chosen.selective.exclude or chosen.selective.include != ("*",))
    if not calibrates and (quantizing.data is not None or (chosen is not None and chosen.cache is not None) or layers):
        raise UsageError(
            "building: images, a calibration cache and excluded layers belong to an INT8 build of an FP32 file. Leave"
            " them out, or add --precision int8."
        )
    if not compares and quantizing.verify is not None:
        raise UsageError(
            "building: --verify compares the file that is quantized for the build with the original, and nothing is"
            " quantized here. Leave it out, or compare the files with trt-pose compare."
        )


def _prepare_implicit(onnx: Path, proto: Any, spec: ModelSpec, wanted: Precision, quantizing: Quantizing) -> _Prepared:
    """For TensorRT 10's own calibrator: ranges of every tensor of the network, in its format."""
    from ..quantize import CalibrationCache, QuantizeOptions, calibrate
    from ..quantize.cache import to_tensorrt
    from ..quantize.network import Network

    chosen = quantizing.options or QuantizeOptions()
    if spec.precision != Precision.FP32 or not wanted.has_int8 or chosen.selective.exclude:
        raise UsageError(
            f"building {onnx} with --int8-mode implicit: it takes an FP32 file, --precision int8 and no --exclude, got"
            f" a file in {spec.precision} for {wanted}. Correct it."
        )
    network = Network(proto)
    everything = dict.fromkeys((*network.activations(), *network.all_activations()))
    tensors = [name for name in everything if name not in network.border]  # those the decode reads
    if chosen.cache is not None and chosen.cache.exists():
        # One of quantize() holds the inputs of layers only: TensorRT runs what has no range in FP16.
        tensors = [name for name in tensors if name in CalibrationCache.read(chosen.cache).thresholds]
    known = calibrate(network, tensors, quantizing.data, chosen.calibration, chosen.cache)
    text = to_tensorrt({name: known.thresholds[name] for name in tensors}, describe_flavor("tensorrt").version)
    described = replace(spec, precision=str(wanted), quantization=f"implicit INT8 and FP16, {known.method}")
    implicit = {"cache": text, "nodes": sorted(network.nodes), "input": spec.input.name}
    return _Prepared(onnx, described, implicit=implicit)


def _describe(
    onnx: Path,
    precision: str | None,
    prepared: _Prepared,
    options: BuildOptions,
    job: dict[str, Any],
    done: dict[str, Any],
) -> Sidecar:
    built = Path(job["engine"])
    capabilities = tuple(f"{major}.{minor}" for major, minor in options.compute_capabilities)
    return Sidecar(
        spec=replace(prepared.spec, plugins_required=tuple(done["plugins"])),
        engine_sha256=file_sha256(built),
        engine_bytes=built.stat().st_size,
        onnx_sha256=file_sha256(onnx),
        flavor=done["flavor"],
        flavor_version=done["flavor_version"],
        gpu=done["gpu"],
        compute_capabilities=capabilities,
        precision_asked=precision or prepared.spec.precision,
        precision_found=done["precision_found"],
        precision_note=done["precision_note"],
        plugins=tuple(done["plugins"]),
        plugin=done["plugin"],
        profile={name: [list(shape) for shape in shapes] for name, shapes in job["profile"].items()},
        options=options.to_dict(),
        quantization=prepared.report,
        seconds=done["seconds"],
        generator=f"trt_pose {__version__}",
    )


def _run(job: dict[str, Any], folder: Path, log: Path) -> dict[str, Any]:
    """Runs the worker and shows its progress. Raises its error, or says how it died."""
    (folder / "job.json").write_text(json.dumps(job))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "trt_pose.engine.worker", str(folder / "job.json"), str(writing)]
    try:
        output = log.open("wb")
    except OSError as error:
        raise EngineError(f"writing {log}: {error.strerror}. Choose a writable place with room.") from error
    with output, os.fdopen(reading, "r") as report:
        # Modules of the user's folder are none of ours.
        own = {**os.environ, "PYTHONSAFEPATH": "1"}
        worker = subprocess.Popen(  # noqa: S603 - our own code
            command, pass_fds=(writing,), stdout=output, stderr=output, env=own
        )
        os.close(writing)
        try:
            answer = _follow(report)
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
    if "done" in answer:
        return dict(answer["done"])
    if "error" in answer:
        kind = getattr(errors, answer["kind"], EngineError)
        raise kind(f"{answer['error']}".replace("The log has the rest.", f"{log} has the rest."))
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
    died = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise EngineError(f"building {Path(job['engine']).name}: TensorRT crashed ({died}): {last[0][:200]}. See {log}.")


def _follow(report: Iterator[str]) -> dict[str, Any]:
    """Shows progress; the last answer, empty when the worker died without one."""
    answer: dict[str, Any] = {}
    with progress_bar(BarColumn(), MofNCompleteColumn()) as progress:
        tasks: dict[str, TaskID] = {}
        progress.add_task("building the engine", total=None)
        for line in report:
            message = json.loads(line)
            phase = message.get("phase")
            if phase is None:
                answer = message
            elif "steps" in message:
                tasks[phase] = progress.add_task(f"  {phase[:60]}", total=message["steps"])
            elif phase in tasks and "step" in message:
                progress.update(tasks[phase], completed=message["step"] + 1)
            elif phase in tasks:
                progress.remove_task(tasks.pop(phase))
    return answer
