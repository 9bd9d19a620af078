"""``trt-pose calibration``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..optional import needed
from .app import MAKE, Command, Group, app, say

calibration_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Convert calibration caches to and from TensorRT's format.",
)
app.add_typer(calibration_app, name="calibration", rich_help_panel=MAKE)


@calibration_app.command(
    "export", cls=Command, epilog="trt-pose calibration export c.json -o c.cache --tensorrt 10.3.0"
)
def calibration_export(
    cache: Annotated[Path, typer.Argument(help="A calibration cache of trt-pose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The cache file for TensorRT.")],
    tensorrt: Annotated[str, typer.Option(help="Version of the TensorRT that will read it, 10.3.0.")],
) -> None:
    """Write a cache in the format of TensorRT 10's entropy calibrator."""
    with needed("converting a calibration cache"):
        from ..quantization.cache import CalibrationCache, write_tensorrt

    thresholds = CalibrationCache.read(cache).thresholds
    write_tensorrt(thresholds, output, tensorrt)
    say(f"{output}: ranges of {len(thresholds)} tensors; TensorRT runs layers without one in a higher precision")


@calibration_app.command("import", cls=Command, epilog="trt-pose calibration import c.cache --onnx pose.onnx -o c.json")
def calibration_import(
    file: Annotated[Path, typer.Argument(help="A cache that TensorRT's entropy calibrator wrote.")],
    onnx: Annotated[Path, typer.Option(help="The FP32 .onnx file it was made with.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The calibration cache to write.")],
) -> None:
    """Convert a cache of TensorRT 10 for use with quantize and build."""
    with needed("converting a calibration cache"):
        from ..quantization.calibrate import import_tensorrt

    cache = import_tensorrt(onnx, file)
    cache.write(output)
    say(f"{output}: {len(cache.thresholds)} tensors")
