"""``trt-pose export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import DetectionOutputFormatMode, ExportTargetBackend
from ..documents import to_json
from ..errors import UsageError
from .accuracy import VerifyData, VerifyImages, measure_accuracy, print_accuracy, record
from .app import (
    MAKE,
    Backend,
    Command,
    ImageSize,
    Json,
    OutputFormat,
    app,
    gone,
    in_range,
    read_batch,
    read_size,
    say,
    speaking,
)

# The names of the Python parameters, and what they are called here.
_OPTIONS = {
    "confidence_threshold": "--conf", "nms_threshold": "--iou", "input_image_shape": "--imgsz",
    "max_predictions_per_image": "--max-det", "num_pre_nms_predictions": "--pre-nms", "batch_size": "--batch",
    "num_keypoints": "--joints", "num_classes": "--classes", "shortest_side": "--shortest-side",
    "divisor": "--divisor", "onnx_export_kwargs: got opset_version": "--opset: got", "device": "--device",
    "input_image_dtype": "--input-dtype", "pad_value": "--pad-value",
    "checkpoint_path": "--weights FILE", "pretrained_weights": "--weights NAME", "verification=False": "--no-verify",
}  # fmt: skip
_RCNN = "Keypoint R-CNN only"


@app.command(
    cls=Command,
    rich_help_panel=MAKE,
    epilog="""trt-pose export demo -o demo.onnx
trt-pose export yolo_nas_pose_s --weights mine.pth -o pose.onnx
trt-pose export yolo_nas_pose_s --weights mine.pth -o pose.onnx --backend tensorrt --batch dynamic""",
)
def export(
    model: Annotated[str, typer.Argument(help="Name of a model; see trt-pose models.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Name of published weights, a checkpoint file, or none for untrained weights.",
            show_default="the published weights",
        ),
    ] = None,
    backend: Backend = ExportTargetBackend.ONNXRUNTIME,
    output_format: OutputFormat = DetectionOutputFormatMode.BATCH_FORMAT,
    batch: Annotated[str, typer.Option(metavar="N|dynamic", help="Images per call.")] = "1",
    imgsz: ImageSize = None,
    conf: Annotated[
        float | None,
        typer.Option(callback=in_range(0, 1), help="Keep predictions with a higher score.", show_default="the model's"),
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(
            callback=in_range(0, 1),
            help="Suppress boxes that overlap a better one by more than this IoU.",
            show_default="the model's",
        ),
    ] = None,
    max_det: Annotated[
        int | None,
        typer.Option(callback=in_range(1), help="Maximum number of predictions per image.", show_default="--pre-nms"),
    ] = None,
    pre_nms: Annotated[int, typer.Option(callback=in_range(1), help="Number of candidates kept before NMS.")] = 1000,
    joints: Annotated[
        int | None, typer.Option(help="Number of joints.", show_default="that of the weights, else 17")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of classes.", show_default="that of the weights, else 80")
    ] = None,
    colormap: Annotated[Path | None, typer.Option(help="JSON file with names and colours of the joints.")] = None,
    opset: Annotated[int | None, typer.Option(help="Version of the ONNX operator set.", show_default="17")] = None,
    simplify: Annotated[bool, typer.Option(help="Fold constants and remove redundant nodes.")] = True,
    device: Annotated[str | None, typer.Option(help="Torch device to trace on.", show_default="cpu")] = None,
    verify: Annotated[bool, typer.Option(help="Compare the file with torch on a photograph before writing it.")] = True,
    verify_data: VerifyData = None,
    verify_images: VerifyImages = None,
    input_dtype: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Element type of the input, uint8 or float32.", show_default="uint8"),
    ] = None,
    pad_value: Annotated[
        int | None,
        typer.Option(
            callback=in_range(0, 255), help="Grey level of the padding.", show_default="that of the training, 127"
        ),
    ] = None,
    shortest_side: Annotated[
        int | None, typer.Option(rich_help_panel=_RCNN, help="Resize the shorter side of images to this first, px.")
    ] = None,
    divisor: Annotated[
        int | None, typer.Option(rich_help_panel=_RCNN, help="Round both sides to a multiple of this.")
    ] = None,
    json: Json = False,
    dynamic: Annotated[bool, typer.Option("--dynamic", hidden=True)] = False,
    half: Annotated[bool, gone("--half", "use trt-pose quantize FILE -o OUT --precision fp16.")] = False,
    int8: Annotated[bool, gone("--int8", "use trt-pose quantize FILE -o OUT --images DIR.")] = False,
    nms: Annotated[bool, gone("--nms", "NMS is always in the file. Leave it out.")] = False,
) -> None:
    """Export a model to one ONNX file, with pre- and post-processing inside."""
    from .. import models as catalog

    measure, card = measure_accuracy(verify_data, verify_images), catalog.look_up(model)
    if (shortest_side, divisor) != (None, None) and not card.sizes_itself:
        raise UsageError(f"--shortest-side, --divisor: {model} has neither. Leave them out.")
    named = weights in (None, "none", *card.weights)
    with speaking(_OPTIONS):
        network = catalog.get(
            model,
            num_classes=classes,
            num_keypoints=joints,
            pretrained_weights=weights or card.weights[0] if named else None,
            checkpoint_path=None if named else weights,
            colormap=colormap,
        )
        result = network.export(
            output,
            confidence_threshold=conf,
            nms_threshold=iou,
            engine=backend,
            batch_size="dynamic" if dynamic else read_batch(batch),
            input_image_shape=read_size(imgsz),
            input_image_dtype=input_dtype,
            max_predictions_per_image=max_det,
            num_pre_nms_predictions=pre_nms,
            onnx_export_kwargs=None if opset is None else {"opset_version": opset},
            onnx_simplify=simplify,
            output_predictions_format=output_format,
            device=device,
            verification=verify,
            shortest_side=shortest_side,
            divisor=divisor,
            pad_value=pad_value,
        )
    accuracy = record(output, measure) if measure else None
    if json:
        say(to_json({"output": result.output, "spec": result.spec, "accuracy": accuracy}))
    else:
        say(result)
        print_accuracy({str(output): accuracy} if accuracy else {})
