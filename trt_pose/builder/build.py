"""Builds an engine and its description from an ONNX file."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID

from .._version import __version__
from ..errors import EngineError, PoseError, UsageError, first_line
from ..files import check_writable, file_sha256, temporary_folder, write_atomically, write_together
from ..optional import check_installed
from ..progress import progress_bar
from ..trt.flavor import describe_flavor
from ..trt.isolated import call
from ..trt.sidecar import SUFFIXES, Sidecar, sidecar_path
from . import worker
from .options import BuildOptions
from .prepare import Prepared, QuantizeRequest, prepare
from .worker import Built, Job


def build_engine(
    onnx: str | Path,
    engine: str | Path,
    precision: str | None = None,
    quantizing: QuantizeRequest | None = None,
    options: BuildOptions | None = None,
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> Sidecar:
    """Builds ``engine`` and writes its description to ``engine`` + ``.json`` and the log to ``engine`` + ``.log``.

    The build runs in a separate process. An FP32 file is quantized first if needed, because TensorRT 11 and
    TensorRT-RTX have no precision switches: the types in the graph determine the precision.

    Args:
        onnx: path of a file exported by trt_pose.
        engine: path of the ``.engine`` file, written atomically.
        precision: ``fp32``, ``fp16``, ``int8`` (INT8 and FP16, as is ``int8+fp16``) or ``best``; None keeps the
            precision of the file.
        quantizing: images and options of an INT8 build.
        options: all other build options.
        measure: called with the path of the ONNX file, of its quantized copy, if any, and of the engine; the results
            are stored in the description as their accuracy (see :func:`trt_pose.evaluation.accuracy`).

    Returns:
        The description of the engine.

    Raises:
        UsageError: an option is invalid.
        CalibrationError: the calibration data is missing or invalid.
        ExportError: the ONNX file cannot be used.
        EngineError: TensorRT failed.
        MissingDependencyError: TensorRT or another required package is not installed.
    """
    onnx, engine = Path(onnx), Path(engine)
    options, quantizing = options or BuildOptions(), quantizing or QuantizeRequest()
    options = _check(engine, options)
    with temporary_folder("build") as folder:
        prepared = prepare(onnx, precision, quantizing, options, folder)
        comparison = quantizing.verify(onnx, prepared.path) if quantizing.verify else None
        accuracy = _measure_files(measure, onnx, prepared.path) if measure else None
        job = Job(
            onnx=prepared.path.resolve(),
            engine=folder / "engine",
            log=Path(f"{engine}.log"),
            spec=prepared.spec,
            options=options,
            profile=options.profile(prepared.spec),
            implicit=prepared.implicit,
        )
        built = _build(job, engine.name)
        layers = _count_layers(job, built, engine.name)
        sidecar = replace(
            _describe(onnx, precision, prepared, job, built, layers), comparison=comparison, accuracy=accuracy
        )
        parts = {
            engine: lambda path: shutil.copyfile(job.engine, path),
            sidecar_path(engine): lambda path: path.write_text(sidecar.to_json(), encoding="utf-8"),
        }
        write_together(parts, EngineError)
    if measure is not None:
        sidecar = replace(sidecar, accuracy={**(accuracy or {}), "engine": _measure_engine(measure, engine)})
        _write_sidecar(sidecar, engine)
    return sidecar


def _check(engine: Path, options: BuildOptions) -> BuildOptions:
    """Checks all that can be checked before a calibration; returns the options with their flavor set."""
    if engine.suffix.lower() not in SUFFIXES:
        got = engine.suffix or "none"
        raise UsageError(f"building {engine}: got the suffix {got!r}, expected .engine.")
    flavor = describe_flavor(options.flavor)
    options = replace(options, flavor=flavor.name)
    options.check_flavor(flavor)
    check_installed("onnx", "onnx_graphsurgeon", "polygraphy", doing="building an engine")
    for path in (engine, sidecar_path(engine), *([Path(options.timing_cache)] if options.timing_cache else [])):
        check_writable(path, EngineError)
    return options


def _write_sidecar(sidecar: Sidecar, engine: Path) -> None:
    write_atomically(
        sidecar_path(engine), lambda path: path.write_text(sidecar.to_json(), encoding="utf-8"), EngineError
    )


def _measure_files(measure: Callable[[Path], dict[str, Any]], onnx: Path, prepared: Path) -> dict[str, Any]:
    accuracy = {"file": measure(onnx)}
    return accuracy if prepared == onnx else {**accuracy, "quantized": measure(prepared)}


def _measure_engine(measure: Callable[[Path], dict[str, Any]], engine: Path) -> dict[str, Any]:
    """Returns the engine's accuracy, or the reason it was not measured, such as an engine built for another GPU."""
    try:
        return measure(engine)
    except PoseError as error:
        return {"not_measured": str(error)}


def _describe(
    onnx: Path,
    precision: str | None,
    prepared: Prepared,
    job: Job,
    built: Built,
    layers: tuple[dict[str, int] | None, str],
) -> Sidecar:
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
        precision_found=layers[0],
        precision_note=layers[1],
        plugins=built.plugins,
        plugin=built.plugin,
        profile={name: [list(shape) for shape in shapes] for name, shapes in job.profile.items()},
        options=options.to_dict(),
        quantization=prepared.report,
        seconds=built.seconds,
        generator=f"trt_pose {__version__}",
        weights=(onnx.name,) if options.strip_weights else (),
        elements=built.elements,
    )


def _build(job: Job, name: str) -> Built:
    """Runs the build in a separate process and shows its progress. Raises EngineError when it fails."""
    with _progress() as show:
        try:
            return call(worker.build, job, doing=f"building {name}", log=job.log, on_progress=show)
        except PoseError:
            raise
        except Exception as error:  # TensorRT's bindings may raise anything
            raise EngineError(
                f"building {name}: {type(error).__name__}: {first_line(error)[:300].rstrip('.')}. {job.log} has the"
                " rest."
            ) from error


def _count_layers(job: Job, built: Built, name: str) -> tuple[dict[str, int] | None, str]:
    """Returns the layers per output type, or None and the reason; a failed inspection does not fail the build."""
    if built.gpu is None:
        return None, "not inspected: no GPU here"
    try:
        return call(worker.inspect_layers, job.engine, built.flavor, job.options.version_compatible, doing="inspecting")
    except Exception as error:  # TensorRT's bindings may raise anything, or crash
        if not job.options.compute_capabilities:
            warnings.warn(f"building {name}: it is written, and cannot be opened here: {error}", stacklevel=3)
        return None, f"not inspected: {first_line(error)}"[:300]


@contextmanager
def _progress() -> Iterator[Callable[[tuple[str, str, int]], None]]:
    """Shows progress bars for the phases of a build; yields a function that takes the events of the worker."""
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
