"""``trt-pose quantize``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..documents import to_json
from ..errors import UsageError
from .app import Json, app, print_table

if TYPE_CHECKING:
    from ..quantization import QuantizeOptions

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..quantization import QuantizeOptions


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
    from ..choices import CalibrationMethod, Precision
    from ..quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer, quantize as make

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
    from ..quantization.sensitivity import analyze

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


def quantize_options(method: str, batches: int, cache: Path | None, exclude: list[str] | None) -> QuantizeOptions:
    from ..choices import CalibrationMethod
    from ..quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer

    return QuantizeOptions(
        calibration=CalibrationOptions(CalibrationMethod.parse(method), batches=batches),
        selective=SelectiveQuantizer(exclude=tuple(exclude or ())),
        cache=cache,
    )
