"""``trt-pose quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..choices import CalibrationMethod, Precision
from ..documents import to_json
from ..errors import UsageError
from .app import MAKE, Command, Json, app, gone, in_range, print_table, say

if TYPE_CHECKING:
    from ..quantization import QuantizeOptions


MaxImages = Annotated[
    int | None,
    typer.Option(callback=in_range(1), help="Calibrate on at most this many images.", show_default="64"),
]


@app.command(
    cls=Command,
    rich_help_panel=MAKE,
    epilog="""trt-pose quantize pose.onnx -o pose_int8.onnx --images photos/
trt-pose quantize pose.onnx -o pose_fp16.onnx --precision fp16
trt-pose quantize pose.onnx --images photos/ --sensitivity --target-db 20""",
)
def quantize(
    file: Annotated[Path, typer.Argument(help="An exported FP32 .onnx file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .onnx file to write.")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the network.", show_default="int8, and int8+fp16 for files for TensorRT"),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder of images to calibrate INT8 on, or random for noise.")
    ] = None,
    method: Annotated[
        CalibrationMethod | None, typer.Option(help="How INT8 thresholds are chosen.", show_default="entropy")
    ] = None,
    percentile: Annotated[
        float, typer.Option(callback=in_range(0, 100), help="With --method percentile: percentage of values kept.")
    ] = 99.99,
    max_images: MaxImages = None,
    batches: Annotated[str | None, gone("--batches", "count images: --max-images.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Calibration cache to use, or to write.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Layers that may be INT8, by name or pattern; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Layers kept out of INT8, by name or pattern; repeatable.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Rank the layers by what INT8 costs; writes no file.")
    ] = False,
    target_db: Annotated[
        float | None, typer.Option(help="With --sensitivity: propose layers to exclude to reach this, dB.")
    ] = None,
    provider: Annotated[str, typer.Option(help="Where calibration runs: cpu, openvino or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Write an INT8 or FP16 copy of an ONNX file and report what it costs."""
    from ..quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer, quantize as run

    unused = [word for word, value in (("--method", method), ("--cache", cache), ("--exclude", exclude)) if value]
    if precision and not precision.has_int8 and unused:
        raise UsageError(f"quantizing to {precision}: {', '.join(unused)} belong to INT8. Leave them out.")
    options = QuantizeOptions(
        precision=precision,
        calibration=CalibrationOptions(
            method or CalibrationMethod.ENTROPY, percentile, providers=(provider,), **taking(max_images)
        ),
        selective=SelectiveQuantizer(tuple(include or ("*",)), tuple(exclude or ())),
        cache=cache,
    )
    if sensitivity:
        if output is not None:
            raise UsageError("--sensitivity: it measures and writes no file. Leave --output out.")
        _sensitivity(file, images, options, target_db, json)
        return
    if output is None:
        raise UsageError("--output: name the .onnx file to write.")
    report = run(file, output, images, options)
    if json:
        say(to_json({"output": str(output), **report.to_dict()}))
        return
    say(f"{output}: {report}")
    print_table(
        ("output of the network", "signal to noise, dB"),
        [(name, f"{value:.1f}") for name, value in report.noise_db.items()],
    )
    if report.kept:
        print_table(("kept", "why"), list(report.kept.items()))


def _sensitivity(file: Path, images: str | None, options: QuantizeOptions, target_db: float | None, json: bool) -> None:
    from ..quantization.sensitivity import analyze

    result = analyze(file, images, options, target_db)
    if json:
        say(to_json(result))
        return
    rows = [(name, f"{value:.1f}") for name, value in result.alone_db.items()]
    print_table(("layer alone in INT8", "signal to noise, dB"), rows)
    say(f"all in INT8: {result.all_db:.1f} dB")
    if target_db is not None:
        say(f"{result.reached_db:.1f} dB without {len(result.exclude)} of {len(rows)} layers")
        say(" ".join(f"--exclude '{name}'" for name in result.exclude))


def taking(max_images: int | None) -> dict[str, Any]:
    """Returns the options of a calibration that takes this many images; none for the default."""
    return {} if max_images is None else {"batches": None, "images": max_images}


def quantize_options(
    method: CalibrationMethod, max_images: int | None, cache: Path | None, exclude: list[str] | None
) -> QuantizeOptions:
    """The options of a quantization that is part of a build."""
    from ..quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer

    return QuantizeOptions(
        calibration=CalibrationOptions(method, **taking(max_images)),
        selective=SelectiveQuantizer(exclude=tuple(exclude or ())),
        cache=cache,
    )
