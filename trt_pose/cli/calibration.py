"""``trt-pose calibration``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app

calibration_app = typer.Typer(no_args_is_help=True, help="Calibration caches, to and from TensorRT's format.")
app.add_typer(calibration_app, name="calibration")


@calibration_app.command("export")
def calibration_export(
    cache: Annotated[Path, typer.Argument(help="A calibration cache of trt-pose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file for TensorRT.")],
    tensorrt: Annotated[str, typer.Option(help="The version that will read it, as 10.3.0.")],
) -> None:
    """Write a cache in the format of TensorRT 10's entropy calibrator."""
    from ..quantization.cache import CalibrationCache, write_tensorrt

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
    from ..quantization.calibrate import import_tensorrt

    cache = import_tensorrt(onnx, file)
    cache.write(output)
    print(f"{output}: {len(cache.thresholds)} tensors")
