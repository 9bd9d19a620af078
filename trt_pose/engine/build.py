"""An ONNX file to an engine and its description."""

from __future__ import annotations

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
from ..errors import CalibrationError, EngineError, UsageError
from ..files import check_writable, write_atomically
from ..progress import progress_bar, step
from ..types import ModelSpec, Precision
from .flavor import describe_flavor
from .options import BuildOptions
from .plan import SUFFIXES, Sidecar, file_sha256, sidecar_path
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
) -> Sidecar:
    """Builds ``engine`` and writes its description beside it, ``engine`` + ``.json``; TensorRT's log goes to ``.log``.

    The build runs in a process of its own. A plain FP32 file is quantized first, since TensorRT 11 and TensorRT-RTX
    have no switches for it: the types of the graph are the precision.

    Args:
        onnx: a file exported by trt_pose. engine: the ``.engine`` to write; whole or not at all.
        precision: ``fp32``, ``fp16``, ``int8`` (with FP16 beside it) or ``best``; None takes the file as it is.
        quantizing: images and options of an INT8 build.
        options: everything else.

    Raises:
        UsageError, CalibrationError, ExportError: wrong options, data or file.
        EngineError: TensorRT's complaint. MissingDependencyError: no TensorRT.
    """
    onnx, engine = Path(onnx), Path(engine)
    options, quantizing = options or BuildOptions(), quantizing or Quantizing()
    if engine.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"building {engine}: got the suffix {engine.suffix or 'none'!r}, expected .engine. Correct it."
        )
    flavor = describe_flavor(options.flavor)
    options = replace(options, flavor=flavor.name)
    options.check_flavor(flavor)
    for path in (engine, sidecar_path(engine)):
        check_writable(path, EngineError)  # before the work, not after
    with tempfile.TemporaryDirectory(prefix="trt_pose_build_") as folder:
        prepared = _prepare(onnx, precision, quantizing, options, Path(folder))
        comparison = quantizing.verify(onnx, prepared.path) if quantizing.verify else None
        job: dict[str, Any] = {
            "onnx": str(prepared.path),
            "engine": str(Path(folder) / "engine"),
            "spec": prepared.spec.to_json(),
            "options": options.to_dict(),
            "profile": options.profile(prepared.spec),
            "strongly_typed": prepared.implicit is None,
            "implicit": prepared.implicit,
        }
        done = _run(job, Path(folder), Path(f"{engine}.log"))
        sidecar = replace(_describe(onnx, precision, prepared, options, job, done), comparison=comparison)
        built = Path(job["engine"])
        write_atomically(engine, lambda path: path.write_bytes(built.read_bytes()), EngineError)
    write_atomically(sidecar_path(engine), lambda path: path.write_text(sidecar.to_json()), EngineError)
    return sidecar


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
    has, wanted = Precision(spec.precision), PRECISIONS.get(precision or spec.precision, Precision(spec.precision))
    if options.int8_mode == "implicit":
        return _prepare_implicit(onnx, proto, spec, wanted, quantizing, folder)
    if precision is None or has is wanted:
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


def _prepare_implicit(
    onnx: Path, proto: Any, spec: ModelSpec, wanted: Precision, quantizing: Quantizing, folder: Path
) -> _Prepared:
    """For TensorRT 10's own calibrator: a cache of ours in its format, or the batches themselves."""
    import numpy as np

    from ..quantize import QuantizeOptions, calibrate, open_batches
    from ..quantize.cache import to_tensorrt
    from ..quantize.network import Network

    if spec.precision != Precision.FP32 or not wanted.has_int8:
        raise UsageError(
            f"building {onnx} with --int8-mode implicit: it takes an FP32 file and --precision int8, got a file in"
            f" {spec.precision} for {wanted}. Correct it."
        )
    chosen = quantizing.options or QuantizeOptions()
    batches, cache = folder / "batches", folder / "calibration.cache"
    batches.mkdir()
    if chosen.cache is not None:
        network = Network(proto)
        known = calibrate(network, network.all_activations(), quantizing.data, chosen.calibration, chosen.cache)
        version = describe_flavor("tensorrt").version
        cache.write_text(to_tensorrt(known.thresholds, version))
    elif quantizing.data is None:
        raise CalibrationError(
            "calibrating: INT8 needs images like those the model will see. Give --images or --cache."
        )
    else:
        for index, batch in enumerate(open_batches(quantizing.data, spec.input, chosen.calibration.batches)):
            np.save(batches / f"{index:05d}.npy", batch)
    described = replace(spec, precision=str(wanted), quantization="TensorRT's implicit INT8 and FP16")
    implicit = {"batches": str(batches), "cache": str(cache), "input": spec.input.name}
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
        spec=prepared.spec,
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
        plugins=prepared.spec.plugins_required,
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
        worker = subprocess.Popen(command, pass_fds=(writing,), stdout=output, stderr=output)  # noqa: S603 - our own code
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
    """Shows progress until the answer; empty when the worker died without one."""
    with progress_bar(BarColumn(), MofNCompleteColumn()) as progress:
        tasks: dict[str, TaskID] = {}
        progress.add_task("building the engine", total=None)
        for line in report:
            message = json.loads(line)
            if "phase" not in message:
                return dict(message)
            phase = message["phase"]
            if "steps" in message:
                tasks[phase] = progress.add_task(f"  {phase[:60]}", total=message["steps"])
            elif phase in tasks and "step" in message:
                progress.update(tasks[phase], completed=message["step"] + 1)
            elif phase in tasks:
                progress.remove_task(tasks.pop(phase))
    return {}
