"""``trt-pose export``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..documents import to_json
from ..errors import UsageError
from .app import Json, app, read_size
from .attach import read_batch

VerifyData = Annotated[
    Path | None, typer.Option(metavar="FILE", help="COCO annotations: record the accuracy on them with the file.")
]


VerifyImages = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of their images.")]


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Model name, see trt-pose models.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    weights: Annotated[
        str | None, typer.Option(help="Published weights (coco_pose, coco), a checkpoint file, or none.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="batch or flat.")] = "batch",
    batch: Annotated[str, typer.Option(help="Images per call, or dynamic.")] = "1",
    imgsz: Annotated[str | None, typer.Option(metavar="SIZE | H W", help="Input size, multiples of 32.")] = None,
    conf: Annotated[float | None, typer.Option(help="Keep scores above it.")] = None,
    iou: Annotated[float | None, typer.Option(help="Suppress boxes that overlap more.")] = None,
    max_det: Annotated[int | None, typer.Option(help="People per image at most.")] = None,
    pre_nms: Annotated[int, typer.Option(help="Candidates that enter NMS.")] = 1000,
    joints: Annotated[int | None, typer.Option(help="Number of joints, without a checkpoint that says it.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes (detection, Keypoint R-CNN).")] = None,
    colormap: Annotated[Path | None, typer.Option(help="JSON with names and colours of the joints.")] = None,
    shortest_side: Annotated[int | None, typer.Option(help="Keypoint R-CNN: resize images to it first.")] = None,
    divisor: Annotated[int | None, typer.Option(help="Keypoint R-CNN: of the sides after that.")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, or tensorrt for the plugin node.")] = "onnxruntime",
    simplify: Annotated[bool, typer.Option(help="Remove redundant nodes.")] = True,
    verify: Annotated[bool, typer.Option(help="Compare the file with torch on a real image.")] = True,
    verify_data: VerifyData = None,
    verify_images: VerifyImages = None,
    json: Json = False,
) -> None:
    """Export a model to one ONNX file, pre- and post-processing inside."""
    from .. import models as catalog

    measure = measure_accuracy(verify_data, verify_images)
    card = catalog.look_up(model)
    if (shortest_side, divisor) != (None, None) and not card.sizes_itself:
        raise UsageError(f"--shortest-side, --divisor: {model} has neither. Leave them out.")
    known = card.weights
    named = weights in (None, "none", *known)
    network = catalog.get(
        model,
        num_classes=classes,
        num_keypoints=joints,
        pretrained_weights=weights or known[0] if named else None,
        checkpoint_path=None if named else weights,
        colormap=colormap,
    )
    result = network.export(
        output,
        confidence_threshold=conf,
        nms_threshold=iou,
        engine=backend,
        batch_size=read_batch(batch),
        input_image_shape=read_size(imgsz),
        max_predictions_per_image=max_det,
        num_pre_nms_predictions=pre_nms,
        onnx_export_kwargs=None if opset is None else {"opset_version": opset},
        onnx_simplify=simplify,
        output_predictions_format=output_format,
        verification=verify,
        shortest_side=shortest_side,
        divisor=divisor,
    )
    accuracy = record(output, measure) if measure else None
    if json:
        print(to_json({"output": result.output, "spec": result.spec, "accuracy": accuracy}))
    else:
        print(result)
        print_accuracy({str(output): accuracy} if accuracy else {})


def measure_accuracy(data: Path | None, images: Path | None) -> Callable[[Path], dict[str, Any]] | None:
    """A file to its accuracy on annotated images; None where none are named."""
    from ..evaluation import accuracy, check_evaluator
    from ..images.annotations import Annotations

    if (data is None) != (images is None):
        raise UsageError("--verify-data: name the annotations, and with --verify-images the folder of their images.")
    if data is None or images is None:
        return None
    check_evaluator()  # before the work, not after
    annotated = Annotations.read(data, images)
    return lambda file: accuracy(file, annotated)


def record(output: Path, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    from ..graphs.file import record_accuracy

    accuracy = measure(output)
    record_accuracy(output, accuracy)
    return accuracy


def print_accuracy(found: dict[str, dict[str, Any]]) -> None:
    from ..evaluation import in_words

    for name, record in found.items():
        if "metrics" in record:
            shown = in_words(record["metrics"])
            print(f"{name}: {shown} ({record['data']}, scores above {record['confidence']:g})")
        else:
            print(f"{name}: not measured: {record['not_measured']}")
