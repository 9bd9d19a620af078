"""Commands about precision: quantize, calibration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..files import to_json
from .base import Json, app, print_table

if TYPE_CHECKING:
    from ..quantize import QuantizeOptions


@app.command()
def quantize(
    file: Annotated[Path, typer.Argument(help="An exported FP32 .onnx file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .onnx file to write.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="int8, fp16 or int8+fp16; INT8 when left out, with FP16 in files for TensorRT.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder to calibrate INT8 on; random for noise.")] = None,
    method: Annotated[str | None, typer.Option(help="entropy (when left out), percentile, mse or minmax.")] = None,
    percentile: Annotated[float, typer.Option(help="Share of the values kept, for that method.")] = 99.99,
    batches: Annotated[int, typer.Option(min=1, help="Calibration batches.")] = 16,
    cache: Annotated[Path | None, typer.Option(help="Calibration cache to use or make.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Layers that may be INT8, by name or pattern.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layers kept out of INT8, by name or pattern.")] = None,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Rank the layers by what INT8 costs.")] = False,
    target_db: Annotated[float | None, typer.Option(help="With --sensitivity: propose exclusions to reach it.")] = None,
    provider: Annotated[str, typer.Option(help="What calibration runs on: cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Make an INT8 or FP16 copy of an ONNX file, and say what it cost."""
    from ..quantize import CalibrationOptions, QuantizeOptions, SelectiveQuantizer, quantize as make
    from ..types import CalibrationMethod, Precision

    chosen = Precision.parse(precision) if precision else None
    unused = [word for word, value in (("--method", method), ("--cache", cache), ("--exclude", exclude)) if value]
    if chosen and not chosen.has_int8 and unused:
        raise UsageError(f"quantizing to {chosen}: {', '.join(unused)} belong to INT8. Leave them out.")
    options = QuantizeOptions(
        precision=chosen,
        calibration=CalibrationOptions(CalibrationMethod.parse(method or "entropy"), percentile, batches, (provider,)),
        selective=SelectiveQuantizer(tuple(include or ("*",)), tuple(exclude or ())),
        cache=cache,
    )
    if sensitivity:
        if output is not None:
            raise UsageError("quantizing: --sensitivity measures and writes no file. Leave --output out.")
        _sensitivity(file, images, options, target_db, json)
        return
    if output is None:
        raise UsageError("quantizing: name the .onnx file to write with --output.")
    report = make(file, output, images, options)
    if json:
        print(to_json({"output": str(output), **asdict(report)}))
        return
    print(f"{output}: {report}")
    print_table(
        ("output of the network", "signal to noise, dB"),
        [(name, f"{value:.1f}") for name, value in report.noise_db.items()],
    )
    if report.kept:
        print_table(("kept", "why"), list(report.kept.items()))


def _sensitivity(file: Path, images: str | None, options: QuantizeOptions, target_db: float | None, json: bool) -> None:
    from ..quantize.sensitivity import analyze

    found = analyze(file, images, options, target_db)
    if json:
        print(to_json(asdict(found)))
        return
    rows = [(name, f"{value:.1f}") for name, value in found.alone_db.items()]
    print_table(("layer alone in INT8", "signal to noise, dB"), rows)
    print(f"all in INT8: {found.all_db:.1f} dB")
    if target_db is not None:
        print(f"{found.reached_db:.1f} dB without {len(found.exclude)} of {len(rows)} layers")
        print(*(f"--exclude '{name}'" for name in found.exclude))


calibration_app = typer.Typer(no_args_is_help=True, help="Calibration caches, to and from TensorRT's format.")
app.add_typer(calibration_app, name="calibration")


@calibration_app.command("export")
def calibration_export(
    cache: Annotated[Path, typer.Argument(help="A calibration cache of trt-pose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file for TensorRT.")],
    tensorrt: Annotated[str, typer.Option(help="The version that will read it, as 10.3.0.")],
) -> None:
    """Write a cache in the format of TensorRT 10's entropy calibrator."""
    from ..quantize.cache import CalibrationCache, write_tensorrt

    thresholds = CalibrationCache.read(cache).thresholds
    write_tensorrt(thresholds, output, tensorrt)
    print(f"{output}: ranges of {len(thresholds)} tensors; TensorRT runs layers without one in a higher precision")


@calibration_app.command("import")
def calibration_import(
    file: Annotated[Path, typer.Argument(help="A cache TensorRT's entropy calibrator wrote.")],
    onnx: Annotated[Path, typer.Option(help="The FP32 file it was made with.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The calibration cache to write.")],
) -> None:
    """Take in a cache of TensorRT 10 for use with quantize and build."""
    from ..quantize.calibrate import import_tensorrt

    cache = import_tensorrt(onnx, file)
    cache.write(output)
    print(f"{output}: {len(cache.thresholds)} tensors")
