"""``trt-pose attach``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Json, app


@app.command()
def attach(
    file: Annotated[Path, typer.Argument(help="An .onnx file of another toolkit's pose model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    head: Annotated[str, typer.Option(help="yolov8-pose, yolo-nas-pose or decoded.")] = "yolov8-pose",
    tensors: Annotated[str | None, typer.Option(help="Names of the head's tensors, separated by commas.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, or tensorrt for the plugin node.")] = "onnxruntime",
    output_format: Annotated[str, typer.Option("--format", help="batch or flat.")] = "batch",
    conf: Annotated[float, typer.Option(help="Keep scores above it.")] = 0.25,
    iou: Annotated[float, typer.Option(help="Suppress boxes that overlap more.")] = 0.7,
    max_det: Annotated[int, typer.Option(min=1, help="People per image at most.")] = 300,
    pre_nms: Annotated[int, typer.Option(min=1, help="Candidates that enter NMS.")] = 1000,
    uint8: Annotated[bool, typer.Option(help="Let the file take uint8 images where it took floats.")] = True,
    json: Json = False,
) -> None:
    """Put NMS and the photometric step into another toolkit's ONNX file."""
    from ..choices import DetectionOutputFormatMode, ExportTargetBackend
    from ..export.attach.attach import AttachOptions, attach as attach_selection
    from ..export.plan import check_threshold
    from ..export.select import Selection

    options = AttachOptions(
        head=head,
        tensors=tensors.split(",") if tensors else None,
        selection=Selection(check_threshold("conf", conf, conf), check_threshold("iou", iou, iou), pre_nms, max_det),
        layout=DetectionOutputFormatMode.parse(output_format),
        target=ExportTargetBackend.parse(backend),
        uint8_input=uint8,
    )
    spec = attach_selection(file, output, options)
    print(spec.to_json(indent=2) if json else f"{output}: {', '.join(spec.output.names)}")


def read_batch(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
