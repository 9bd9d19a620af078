"""The command line: parse, call one function, print.

Results go to standard output, everything else to standard error. Exit codes: 0, 1 for a PoseError (one sentence),
2 for wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import io
import json as jsonlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._version import __version__
from .errors import PoseError, UsageError

if TYPE_CHECKING:
    from .results import PoseResult

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pose models from PyTorch to ONNX, and poses from images.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"trt-pose {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def models(json: Json = False) -> None:
    """List the models."""
    from dataclasses import asdict

    from .models import MODELS

    if json:
        print(jsonlib.dumps([asdict(info) for info in MODELS.values()], indent=2))
        return
    rows = [
        (m.name, m.task, f"{m.parameters / 1e6:.1f} M", f"{m.gmacs:.1f}", ", ".join(m.weights), m.weights_licence)
        for m in MODELS.values()
    ]
    _table(("model", "task", "parameters", "GMACs at 640", "weights", "licence of the weights"), rows)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Model name, see trt-pose models.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    weights: Annotated[
        str, typer.Option(help="Published weights (coco_pose), a checkpoint file, or none.")
    ] = "coco_pose",
    output_format: Annotated[str, typer.Option("--format", help="batch or flat.")] = "batch",
    batch: Annotated[str, typer.Option(help="Images per call, or dynamic.")] = "1",
    imgsz: Annotated[str | None, typer.Option(metavar="SIZE | H W", help="Input size, multiples of 32.")] = None,
    conf: Annotated[float | None, typer.Option(help="Keep scores above it.")] = None,
    iou: Annotated[float | None, typer.Option(help="Suppress boxes that overlap more.")] = None,
    max_det: Annotated[int | None, typer.Option(help="People per image at most.")] = None,
    pre_nms: Annotated[int, typer.Option(help="Candidates that enter NMS.")] = 1000,
    joints: Annotated[int | None, typer.Option(help="Number of joints, without a checkpoint that says it.")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, or tensorrt for the plugin node.")] = "onnxruntime",
    simplify: Annotated[bool, typer.Option(help="Remove redundant nodes.")] = True,
    verify: Annotated[bool, typer.Option(help="Compare the file with torch on a real image.")] = True,
    json: Json = False,
) -> None:
    """Export a model to one ONNX file, pre- and post-processing inside."""
    from . import models as catalog

    catalog.look_up(model)
    published = weights if weights in catalog.MODELS[model.lower()].weights else None
    network = catalog.get(
        model,
        num_classes=joints,
        pretrained_weights=published,
        checkpoint_path=None if published or weights == "none" else weights,
    )
    result = network.export(
        output,
        confidence_threshold=conf,
        nms_threshold=iou,
        engine=backend,
        batch_size=_batch(batch),
        input_image_shape=_size(imgsz),
        max_predictions_per_image=max_det,
        num_pre_nms_predictions=pre_nms,
        onnx_export_kwargs=None if opset is None else {"opset_version": opset},
        onnx_simplify=simplify,
        output_predictions_format=output_format,
        verification=verify,
    )
    if json:
        print(jsonlib.dumps({"output": result.output, "spec": jsonlib.loads(result.spec.to_json())}, indent=2))
    else:
        print(result)


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
    from .export.attach import AttachOptions, attach as attach_selection
    from .export.graph import Selection
    from .export.options import check_threshold
    from .types import DetectionOutputFormatMode, ExportTargetBackend

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
    from .engine.plugin_build import build_plugin

    print(build_plugin(include, architectures))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file.")],
    source: Annotated[str, typer.Argument(help="Image, folder, glob, video, URL or camera index.")],
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the drawn images into this folder.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the poses as JSON; - is stdout.")] = None,
    show: Annotated[bool, typer.Option(help="Open each drawn image.")] = False,
    conf: Annotated[float | None, typer.Option(help="Keep scores above it (at least the file's own).")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per run of a file with a dynamic batch.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.")] = None,
    provider: Annotated[str | None, typer.Option(help="cpu, openvino, cuda or tensorrt.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 with OpenVINO.")] = "fp32",
) -> None:
    """Find the people in images."""
    from .errors import SourceError
    from .files import check_writable
    from .output import PictureFolder
    from .predictor import PosePredictor
    from .results import write_json

    records: list[dict[str, Any]] = []
    if json and json != Path("-"):
        check_writable(json, SourceError)  # before minutes of work, not after
    providers = [provider] if provider else None
    with PosePredictor(model, confidence=conf, threads=threads, providers=providers, precision=precision) as predictor:
        pictures = PictureFolder(save) if save else None
        camera = source.isascii() and source.isdigit()
        for result in predictor.stream(int(source) if camera else source, batch_size=batch, progress=True):
            if pictures:
                pictures.write(result)
            if show:
                result.show()
            if json:
                records.append(result.to_dict())
            if json != Path("-"):
                _print_poses(result)
    if json == Path("-"):
        print(jsonlib.dumps(records, indent=2))
    elif json:
        write_json(records, json)


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="An exported .onnx file.")], json: Json = False) -> None:
    """Show what a model file takes, gives and contains."""
    from .inspect import inspect as inspect_file

    found = inspect_file(file)
    if json:
        print(found.to_json())
        return
    spec = found.spec
    tensors = [
        (kind, name, info.dtype, " x ".join(str(size or "?") for size in info.shape))
        for kind, items in (("input", found.inputs), ("output", found.outputs))
        for name, info in items.items()
    ]
    facts = [
        ("model", f"{spec.model} ({spec.task}, {spec.precision})"),
        ("weights", f"{spec.weights} sha256 {spec.weights_sha256[:16]}"),
        ("image", f"{spec.input.resize} to {spec.input.resize_to}, pad {spec.input.padding} {spec.input.pad_value}"),
        ("kept", f"score > {spec.output.confidence_threshold}, IoU <= {spec.output.nms_threshold}"),
        ("limits", f"{spec.output.num_pre_nms_predictions} candidates, {spec.output.max_predictions_per_image} people"),
        ("joints", f"{spec.skeleton.num_joints}: {', '.join(spec.skeleton.names)}"),
        ("plugins", ", ".join(spec.plugins_required) or "none"),
        ("file", f"{found.size_bytes / 1e6:.1f} MB, opset {found.opset}, written by {spec.generator}"),
    ]
    _table(("fact", "value"), facts)
    _table(("kind", "tensor", "type", "shape"), tensors)
    if found.operators is None:
        print("operators: not counted, the onnx package is not installed (pip install 'trt-pose[export]')")
    else:
        _table(("operator", "nodes"), [(name, str(count)) for name, count in found.operators.items()])


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="An .onnx file to look at, too.")] = None, json: Json = False
) -> None:
    """Say what is installed, what works, and whether a file will; exit 1 when something is wrong."""
    from dataclasses import asdict

    from .doctor import examine

    findings = examine(file)
    if json:
        print(jsonlib.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {True: "ok", False: "WRONG", None: "-"}
        _table(("", "what", "found"), [(marks[item.fine], item.what, item.detail) for item in findings])
    if any(item.fine is False for item in findings):
        raise typer.Exit(1)


def _print_poses(result: PoseResult) -> None:
    rows = []
    for number, pose in enumerate(result.poses):
        x1, y1, x2, y2 = pose.boxes[0]
        best = pose.joints[0, :, 2].argsort()[::-1][:3]
        seen = ", ".join(
            f"{pose.skeleton.names[i]} ({pose.joints[0, i, 0]:.0f}, {pose.joints[0, i, 1]:.0f})" for i in best
        )
        box = f"{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}"
        rows.append((str(number), f"{pose.scores[0]:.3f}", box, str(int((pose.joints[0, :, 2] > 0.5).sum())), seen))
    print(f"{result.source}: {len(rows)} {'person' if len(rows) == 1 else 'people'}")
    if rows:
        _table(("#", "score", "box x1, y1, x2, y2", "joints > 0.5", "surest joints"), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=SIMPLE)
    for row in rows:
        table.add_row(*map(Text, row))  # names of files and joints are not markup
    # Rich folds to 80 columns where there is no terminal: a file or pipe gets room.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _batch(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sizes = re.fullmatch(r"(\d+)(?:[x, ](\d+))?", text)
    if not sizes:
        raise UsageError(f"--imgsz: got {text!r}, expected SIZE or H W. Correct it.")
    return int(sizes[1]), int(sizes[2] or sizes[1])


def _join_imgsz(arguments: list[str]) -> list[str]:
    """``--imgsz 480 640`` (two words, as users of other exporters write it) to ``--imgsz 480x640``."""
    joined = list(arguments)
    if "--imgsz" in joined:
        at = joined.index("--imgsz")
        if all(word.isdigit() for word in joined[at + 1 : at + 3]) and len(joined) > at + 2:
            joined[at + 1 : at + 3] = [f"{joined[at + 1]}x{joined[at + 2]}"]
    return joined


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``trt-pose`` command."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal's encoding does not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_args, **_kwargs: print(f"warning: {message}", file=sys.stderr)
            app(args=_join_imgsz(sys.argv[1:] if arguments is None else arguments), prog_name="trt-pose")
    except PoseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
