"""Commands that make files: models, export, attach, build, plugin."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .base import Json, app, print_table, read_size

if TYPE_CHECKING:
    from ..quantize import QuantizeOptions

VerifyData = Annotated[
    Path | None, typer.Option(metavar="FILE", help="COCO annotations: record the accuracy on them with the file.")
]
VerifyImages = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of their images.")]


@app.command()
def models(
    json: Json = False, markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False
) -> None:
    """List the models."""
    from dataclasses import asdict

    from ..models import MODELS

    if json:
        print(jsonlib.dumps([asdict(info) for info in MODELS.values()], indent=2))
        return
    rows = [
        (
            m.name, m.task, f"{m.parameters / 1e6:.1f} M", f"{m.gmacs:.1f}", m.input, ", ".join(m.weights),
            m.weights_licence,
        )
        for m in MODELS.values()
    ]  # fmt: skip
    header = ("model", "task", "parameters", "GMACs at 640", "input", "weights", "licence of the weights")
    if markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)))
    else:
        print_table(header, rows)


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
    from ..types import Models

    measure = _measure(verify_data, verify_images)
    resizing = {"shortest_side": shortest_side, "divisor": divisor}
    rcnn = {name: value for name, value in resizing.items() if value is not None}
    if rcnn and catalog.look_up(model).name != Models.KEYPOINT_RCNN:
        raise UsageError(f"--shortest-side, --divisor: they are for {Models.KEYPOINT_RCNN} alone. Leave them out.")
    known = catalog.look_up(model).weights
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
        batch_size=_batch(batch),
        input_image_shape=read_size(imgsz),
        max_predictions_per_image=max_det,
        num_pre_nms_predictions=pre_nms,
        onnx_export_kwargs=None if opset is None else {"opset_version": opset},
        onnx_simplify=simplify,
        output_predictions_format=output_format,
        verification=verify,
        **rcnn,
    )
    accuracy = _record(output, measure) if measure else None
    if json:
        spec = jsonlib.loads(result.spec.to_json())
        print(jsonlib.dumps({"output": result.output, "spec": spec, "accuracy": accuracy}, indent=2))
    else:
        print(result)
        _print_accuracy({str(output): accuracy} if accuracy else {})


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
    from ..export.attach import AttachOptions, attach as attach_selection
    from ..export.graph import Selection
    from ..export.options import check_threshold
    from ..types import DetectionOutputFormatMode, ExportTargetBackend

    flat = DetectionOutputFormatMode.parse(output_format) is DetectionOutputFormatMode.FLAT_FORMAT
    options = AttachOptions(
        head=head,
        tensors=tensors.split(",") if tensors else None,
        selection=Selection(
            check_threshold("conf", conf, conf), check_threshold("iou", iou, iou), pre_nms, max_det, flat
        ),
        target=ExportTargetBackend.parse(backend),
        uint8_input=uint8,
    )
    spec = attach_selection(file, output, options)
    print(spec.to_json(indent=2) if json else f"{output}: {', '.join(spec.output.names)}")


plugin_app = typer.Typer(no_args_is_help=True, help="The TensorRT plugin.")
app.add_typer(plugin_app, name="plugin")


@plugin_app.command("build")
def plugin_build(
    include: Annotated[Path | None, typer.Option(metavar="DIR", help="TensorRT's headers.")] = None,
    architectures: Annotated[str | None, typer.Option(help="GPUs, as CMake names them: 75-real;90.")] = None,
) -> None:
    """Compile libtrt_pose_plugins.so; needs CMake, nvcc and TensorRT's headers."""
    from ..engine.plugin_build import build_plugin

    print(build_plugin(include, architectures))


@app.command()
def build(
    onnx: Annotated[Path | None, typer.Argument(help="An exported .onnx file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", "--saveEngine", help="The .engine to write.")] = None,
    onnx_option: Annotated[Path | None, typer.Option("--onnx", help="The .onnx file, as trtexec names it.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8 or best; the file's own when left out.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder to calibrate INT8 on; random for noise.")] = None,
    method: Annotated[str, typer.Option(help="entropy, percentile, mse or minmax.")] = "entropy",
    batches: Annotated[int, typer.Option(min=1, help="Calibration batches.")] = 16,
    cache: Annotated[Path | None, typer.Option(help="Calibration cache to use or make.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layers kept out of INT8, by name or pattern.")] = None,
    int8_mode: Annotated[str, typer.Option("--int8-mode", help="explicit, or TensorRT 10's implicit.")] = "explicit",
    min_shapes: Annotated[str | None, typer.Option("--minShapes", metavar="NAME:1x3xHxW")] = None,
    opt_shapes: Annotated[str | None, typer.Option("--optShapes", metavar="NAME:4x3xHxW")] = None,
    max_shapes: Annotated[str | None, typer.Option("--maxShapes", metavar="NAME:8x3xHxW")] = None,
    mem_pools: Annotated[str | None, typer.Option("--memPoolSize", metavar="workspace:2048")] = None,
    timing_cache: Annotated[str | None, typer.Option("--timingCacheFile", metavar="FILE")] = None,
    level: Annotated[int | None, typer.Option("--builderOptimizationLevel", metavar="0..5")] = None,
    version_compatible: Annotated[bool, typer.Option("--versionCompatible")] = False,
    hardware: Annotated[
        str | None, typer.Option("--hardwareCompatibilityLevel", metavar="none|ampere+|sameComputeCapability")
    ] = None,
    verbosity: Annotated[
        str, typer.Option("--profilingVerbosity", metavar="layer_names_only|detailed|none")
    ] = "detailed",
    serialize: Annotated[list[str] | None, typer.Option("--setPluginsToSerialize", metavar="LIBRARY")] = None,
    strip: Annotated[bool, typer.Option("--stripWeights")] = False,
    refit: Annotated[bool, typer.Option("--refit")] = False,
    capabilities: Annotated[
        str | None, typer.Option("--computeCapabilities", metavar="8.6,8.9", help="GPUs of an ahead-of-time RTX build.")
    ] = None,
    library: Annotated[
        str | None, typer.Option("--dynamicPlugins", metavar="LIBRARY", help="The plugin library.")
    ] = None,
    tensorrt: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx; what is installed.")] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DIR", help="Images to compare the quantized file with the original on.")
    ] = None,
    verify_data: VerifyData = None,
    verify_images: VerifyImages = None,
    json: Json = False,
) -> None:
    """Build a TensorRT engine; the options of trtexec have its names."""
    from ..compare import compare
    from ..engine import options as words
    from ..engine.build import Quantizing, build_engine

    source = onnx or onnx_option
    if onnx is not None and onnx_option is not None:
        raise UsageError(f"building: got {onnx} and --onnx {onnx_option}. Name one of them.")
    if source is None or output is None:
        raise UsageError("building: name the .onnx file and, with --output, the .engine to write.")
    options = words.BuildOptions(
        min_shapes=words.parse_shapes(min_shapes),
        opt_shapes=words.parse_shapes(opt_shapes),
        max_shapes=words.parse_shapes(max_shapes),
        memory_pools=words.parse_pools(mem_pools),
        timing_cache=timing_cache,
        optimization_level=level,
        version_compatible=version_compatible,
        hardware_compatibility=words.parse_hardware(hardware),
        profiling_verbosity=words.parse_verbosity(verbosity),
        plugins_to_serialize=tuple(serialize or ()),
        strip_weights=strip,
        refit=refit,
        compute_capabilities=words.parse_capabilities(capabilities),
        int8_mode=int8_mode,
        library=library,
        flavor=tensorrt,
    )
    quantize = _quantize_options(method, batches, cache, exclude)
    check = (lambda first, second: compare(first, second, verify).to_dict()) if verify else None
    measure = _measure(verify_data, verify_images)
    sidecar = build_engine(source, output, precision, Quantizing(images, quantize, check), options, measure)
    print(sidecar.to_json() if json else sidecar.summary(output))
    if not json:
        _print_accuracy(sidecar.accuracy or {})
    if sidecar.comparison and not json:
        total = sidecar.comparison["total"]
        print(
            f"quantized ONNX file against the original: {total['missed']} of {total['found']} missed,"
            f" {total['extra']} extra, loss {total['loss']:.4f}"
        )


def _measure(data: Path | None, images: Path | None) -> Callable[[Path], dict[str, Any]] | None:
    """A file to its accuracy on annotated images; None where none are named."""
    from ..evaluate import Annotated as AnnotatedImages, accuracy, check_evaluator

    if (data is None) != (images is None):
        raise UsageError("--verify-data: name the annotations, and with --verify-images the folder of their images.")
    if data is None or images is None:
        return None
    check_evaluator()  # before the work, not after
    annotated = AnnotatedImages.read(data, images)
    return lambda file: accuracy(file, annotated)


def _record(output: Path, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    from ..quantize.document import record_accuracy

    accuracy = measure(output)
    record_accuracy(output, accuracy)
    return accuracy


def _print_accuracy(found: dict[str, dict[str, Any]]) -> None:
    from ..evaluate import in_words

    for name, record in found.items():
        if "metrics" in record:
            shown = in_words(record["metrics"])
            print(f"{name}: {shown} ({record['data']}, scores above {record['confidence']:g})")
        else:
            print(f"{name}: not measured: {record['not_measured']}")


def _quantize_options(method: str, batches: int, cache: Path | None, exclude: list[str] | None) -> QuantizeOptions:
    from ..quantize import CalibrationOptions, QuantizeOptions, SelectiveQuantizer
    from ..types import CalibrationMethod

    return QuantizeOptions(
        calibration=CalibrationOptions(CalibrationMethod.parse(method), batches=batches),
        selective=SelectiveQuantizer(exclude=tuple(exclude or ())),
        cache=cache,
    )


def _batch(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
