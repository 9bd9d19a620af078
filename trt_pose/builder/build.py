"""An ONNX file to an engine and its description."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID

from .._version import __version__
from ..errors import EngineError, PoseError, UsageError, first_line
from ..files import check_writable, file_sha256, write_atomically
from ..optional import check_installed
from ..progress import progress_bar
from ..trt.flavor import describe_flavor
from ..trt.isolated import call
from ..trt.sidecar import SUFFIXES, Sidecar, sidecar_path
from . import worker
from .options import BuildOptions
from .prepare import Prepared, Quantizing, prepare
from .worker import Built, Job


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
            description as their accuracy (see :func:`trt_pose.evaluation.accuracy`).

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
    check_installed("onnx", "polygraphy", doing="building an engine")  # before a calibration, not after it
    for path in (engine, sidecar_path(engine), *([Path(options.timing_cache)] if options.timing_cache else [])):
        check_writable(path, EngineError)  # before the work, not after
    with tempfile.TemporaryDirectory(prefix="trt_pose_build_") as folder:
        prepared = prepare(onnx, precision, quantizing, options, Path(folder))
        comparison = quantizing.verify(onnx, prepared.path) if quantizing.verify else None
        accuracy = _measure_files(measure, onnx, prepared.path) if measure else None
        job = Job(
            onnx=prepared.path.resolve(),
            engine=Path(folder) / "engine",
            log=Path(f"{engine}.log"),
            spec=prepared.spec,
            options=options,
            profile=options.profile(prepared.spec),
            implicit=prepared.implicit,
        )
        built = _build(job, engine.name)
        layers = _count_layers(job, built)
        sidecar = replace(
            _describe(onnx, precision, prepared, job, built),
            precision_found=layers[0],
            precision_note=layers[1],
            comparison=comparison,
            accuracy=accuracy,
        )
        # The old description goes first: an engine without one is better than one with another's.
        sidecar_path(engine).unlink(missing_ok=True)
        write_atomically(engine, lambda path: path.write_bytes(job.engine.read_bytes()), EngineError)
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


def _describe(onnx: Path, precision: str | None, prepared: Prepared, job: Job, built: Built) -> Sidecar:
    options = job.options
    return Sidecar(
        spec=replace(prepared.spec, plugins_required=built.plugins),
        engine_sha256=file_sha256(job.engine),
        engine_bytes=job.engine.stat().st_size,
        onnx_sha256=file_sha256(onnx),
        flavor=built.flavor,
        flavor_version=built.flavor_version,
        gpu=built.gpu,
        compute_capabilities=tuple(f"{major}.{minor}" for major, minor in options.compute_capabilities),
        precision_asked=precision or prepared.spec.precision,
        plugins=built.plugins,
        plugin=built.plugin,
        profile={name: [list(shape) for shape in shapes] for name, shapes in job.profile.items()},
        options=options.to_dict(),
        quantization=prepared.report,
        seconds=built.seconds,
        generator=f"trt_pose {__version__}",
    )


def _build(job: Job, name: str) -> Built:
    """Runs the build in a process of its own and shows its progress."""
    with _progress() as show:
        try:
            return call(worker.build, job, doing=f"building {name}", log=job.log, on_progress=show)
        except PoseError:
            raise
        except Exception as error:  # whatever TensorRT's bindings raised becomes one sentence
            raise EngineError(
                f"building {name}: {type(error).__name__}: {first_line(error)[:300].rstrip('.')}. {job.log} has the"
                " rest."
            ) from error


def _count_layers(job: Job, built: Built) -> tuple[dict[str, int] | None, str]:
    """Layers per output type, or None and why they are not known; a failed inspection does not spoil the engine."""
    if built.gpu is None:
        return None, "not inspected: no GPU here"
    try:
        return call(worker.inspect_layers, job.engine, built.flavor, job.options.version_compatible, doing="inspecting")
    except Exception as error:  # whatever TensorRT's bindings raised, or a crash
        return None, f"not inspected: {first_line(error)}"[:300]


@contextmanager
def _progress() -> Iterator[Callable[[tuple[str, str, int]], None]]:
    """Bars for the phases of a build, fed with what the worker reports."""
    with progress_bar(BarColumn(), MofNCompleteColumn()) as progress:
        tasks: dict[str, TaskID] = {}
        progress.add_task("building the engine", total=None)

        def show(event: tuple[str, str, int]) -> None:
            kind, phase, number = event
            if kind == "start":
                tasks[phase] = progress.add_task(f"  {phase[:60]}", total=number)
            elif kind == "step" and phase in tasks:
                progress.update(tasks[phase], completed=number + 1)
            elif kind == "end" and phase in tasks:
                progress.remove_task(tasks.pop(phase))

        yield show
