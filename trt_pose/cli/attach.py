"""``trt-pose attach``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import DetectionOutputFormatMode, ExportTargetBackend, HeadName
from ..errors import UsageError
from .app import MAKE, Backend, Command, Json, OutputFormat, app, in_range, say, speaking


@app.command(
    cls=Command,
    rich_help_panel=MAKE,
    epilog="""trt-pose attach yolo11n-pose.onnx -o pose.onnx
trt-pose attach theirs.onnx -o pose.onnx --head decoded --tensors boxes,scores,joints --backend tensorrt
trt-pose attach simplified.onnx -o pose.onnx --spec-from exported.onnx""",
)
def attach(
    file: Annotated[Path, typer.Argument(help="The .onnx file of another toolkit's pose model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    head: Annotated[
        HeadName | None,
        typer.Option(help="Layout of the outputs of the file.", show_default="what the file says, or what fits"),
    ] = None,
    tensors: Annotated[
        str | None,
        typer.Option(help="Names of the output tensors, separated by commas.", show_default="the outputs of the file"),
    ] = None,
    backend: Backend = ExportTargetBackend.ONNXRUNTIME,
    output_format: OutputFormat = DetectionOutputFormatMode.BATCH_FORMAT,
    conf: Annotated[float, typer.Option(callback=in_range(0, 1), help="Keep predictions with a higher score.")] = 0.25,
    iou: Annotated[
        float,
        typer.Option(callback=in_range(0, 1), help="Suppress boxes that overlap a better one by more than this IoU."),
    ] = 0.7,
    max_det: Annotated[int, typer.Option(callback=in_range(1), help="Maximum number of people per image.")] = 300,
    pre_nms: Annotated[int, typer.Option(callback=in_range(1), help="Number of candidates kept before NMS.")] = 1000,
    uint8: Annotated[bool, typer.Option(help="Make the file take uint8 images where it took floats.")] = True,
    spec_from: Annotated[
        Path | None,
        typer.Option(metavar="ORIGINAL", help="Add no nodes; give a file back the description of this one."),
    ] = None,
    json: Json = False,
) -> None:
    """Add NMS and pre-processing to another toolkit's ONNX file."""
    from ..attachment import AttachOptions, attach as attach_selection, restore
    from ..operators.selection import Selection

    if spec_from is not None:
        if head is not None or tensors is not None:
            raise UsageError("--spec-from: got --head or --tensors, too. It adds no nodes; leave them out.")
        spec = restore(file, output, spec_from)
        say(spec.to_json(indent=2) if json else f"{output}: {spec.model}, {spec.precision}")
        return

    options = AttachOptions(
        head=head,
        tensors=tensors.split(",") if tensors else None,
        selection=Selection(conf, iou, pre_nms, max_det),
        layout=output_format,
        target=backend,
        uint8_input=uint8,
    )
    with speaking({"num_pre_nms_predictions": "--pre-nms", "max_predictions_per_image": "--max-det"}):
        spec = attach_selection(file, output, options)
    say(spec.to_json(indent=2) if json else f"{output}: {', '.join(spec.output.names)}")
