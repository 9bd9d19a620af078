"""An ONNX file to an engine and its description."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID

from .. import errors
from .._version import __version__
from ..errors import EngineError, MissingDependencyError, PoseError, UsageError
from ..files import check_writable, file_sha256, write_atomically
from ..progress import progress_bar
from ..trt.flavor import Flavor, describe_flavor
from ..trt.sidecar import SUFFIXES, Sidecar, sidecar_path
from .options import BuildOptions
from .prepare import Prepared, Quantizing, prepare


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
    _check_packages(flavor)
    for path in (engine, sidecar_path(engine), *([Path(options.timing_cache)] if options.timing_cache else [])):
        check_writable(path, EngineError)  # before the work, not after
    with tempfile.TemporaryDirectory(prefix="trt_pose_build_") as folder:
        prepared = prepare(onnx, precision, quantizing, options, Path(folder))
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


def _describe(
    onnx: Path,
    precision: str | None,
    prepared: Prepared,
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
    command = [sys.executable, "-m", "trt_pose.builder.worker", str(folder / "job.json"), str(writing)]
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
