"""Commands that use files: predict, compare, inspect, doctor."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import to_json
from .base import Json, app, print_table

if TYPE_CHECKING:
    from ..detections import Result
    from ..inspect import EngineInspection
    from ..results import PoseResult
    from ..types import ModelSpec


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file, or an engine.")],
    source: Annotated[str, typer.Argument(help="Image, folder, glob, video, URL or camera index.")],
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the drawn images into this folder.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the poses as JSON; - is stdout.")] = None,
    show: Annotated[bool, typer.Option(help="Open each drawn image.")] = False,
    conf: Annotated[float | None, typer.Option(help="Keep scores above it (at least the file's own).")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per run of a file with a dynamic batch.")] = None,
    threads: Annotated[int | None, typer.Option(help="ONNX Runtime: threads within an operator.")] = None,
    provider: Annotated[str | None, typer.Option(help="cpu, openvino, cuda or tensorrt.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 with OpenVINO.")] = "fp32",
) -> None:
    """Find the people, or objects, in images."""
    from ..errors import SourceError
    from ..files import check_writable
    from ..output import PictureFolder
    from ..predictor import PosePredictor
    from ..results import write_json

    records: list[dict[str, Any]] = []
    if json and json != Path("-"):
        check_writable(json, SourceError)  # before minutes of work, not after
    options: dict[str, Any] = {} if threads is None else {"threads": threads}
    if provider is not None:
        options["providers"] = [provider]
    if precision != "fp32":
        options["precision"] = precision
    with PosePredictor(model, confidence=conf, **options) as predictor:
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
                _print_found(result)
    if json == Path("-"):
        print(jsonlib.dumps(records, indent=2))
    elif json:
        write_json(records, json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The reference: an .onnx file or an engine.")],
    second: Annotated[Path, typer.Argument(help="What is compared with it.")],
    images: Annotated[str, typer.Option(help="Image, folder or glob.")],
    conf: Annotated[float | None, typer.Option(help="Keep scores above it.")] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-oks-loss", "--max-loss", help="Exit with 1 beyond this loss of OKS (objects: IoU), 0 to 1."
        ),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Measure the noise of every shared tensor, too.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page of HTML.")] = None,
    json: Json = False,
) -> None:
    """Show how much the people, or objects, two files find differ, image by image."""
    from ..compare import check_loss, compare as compare_files

    result = compare_files(first, second, images, confidence=conf, tensors=tensors, report=report)
    if json:
        print(to_json(result.to_dict()))
    else:
        rows = [
            (
                Path(row.source).name,
                f"{row.first}",
                f"{row.second}",
                f"{row.missed}",
                f"{row.extra}",
                f"{row.px_mean:.2f}",
                f"{row.px_max:.2f}",
                f"{row.similarity:.4f}",
                f"{row.score:.3f}",
            )
            for row in result.images
        ]
        print_table(result.header, rows)
        if result.noise_db:
            noisiest = list(result.noise_db.items())[:20]
            print_table(("noisiest tensors", "signal to noise, dB"), [(name, f"{db:.1f}") for name, db in noisiest])
        print(result)
    if max_loss is not None and not check_loss(result, max_loss):
        raise typer.Exit(1)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An exported .onnx file, or an engine.")], json: Json = False
) -> None:
    """Show what a model file takes, gives and contains."""
    from ..engine.plan import SUFFIXES
    from ..inspect import inspect as inspect_file, inspect_engine

    if file.suffix.lower() in SUFFIXES:
        engine = inspect_engine(file)
        print(engine.to_json()) if json else _print_engine(engine)
        return
    found = inspect_file(file)
    if json:
        print(found.to_json())
        return
    tensors = [
        (kind, name, info.dtype, " x ".join(str(size or "?") for size in info.shape))
        for kind, items in (("input", found.inputs), ("output", found.outputs))
        for name, info in items.items()
    ]
    written = f"{found.size_bytes / 1e6:.1f} MB, opset {found.opset}, written by {found.spec.generator}"
    print_table(("fact", "value"), [*_facts(found.spec), ("file", written)])
    print_table(("kind", "tensor", "type", "shape"), tensors)
    if found.operators is None:
        print("operators: not counted, the onnx package is not installed (pip install 'trt-pose[export]')")
    else:
        print_table(("operator", "nodes"), [(name, str(count)) for name, count in found.operators.items()])


def _facts(spec: ModelSpec) -> list[tuple[str, str]]:
    return [
        ("model", f"{spec.model} ({spec.task}, {spec.precision})"),
        ("quantization", spec.quantization or "none"),
        ("weights", f"{spec.weights} sha256 {spec.weights_sha256[:16]}"),
        ("image", f"{spec.input.resize} to {spec.input.resize_to}, pad {spec.input.padding} {spec.input.pad_value}"),
        *_selected(spec),
        ("plugins", ", ".join(spec.plugins_required) or "none"),
    ]


def _selected(spec: ModelSpec) -> list[tuple[str, str]]:
    """What a file keeps and of what; a raw or converted file says neither."""
    rows = []
    if spec.output.confidence_threshold is not None:
        rows = [
            ("kept", f"score > {spec.output.confidence_threshold:g}, IoU <= {spec.output.nms_threshold:g}"),
            (
                "limits",
                f"{spec.output.num_pre_nms_predictions} candidates, {spec.output.max_predictions_per_image} per image",
            ),
        ]
    if spec.task == "pose":
        rows.append(("joints", f"{spec.skeleton.num_joints}: {', '.join(spec.skeleton.names)}"))
    if spec.task == "detection":
        rows.append(("classes", f"{len(spec.class_names)}: {', '.join(spec.class_names)}"))
    return rows


def _print_engine(found: EngineInspection) -> None:
    facts = [
        ("built with", f"{found.header.flavor} {found.header.version}"),
        ("size", f"{found.size_bytes / 1e6:.1f} MB"),
    ]
    if found.sidecar is not None:
        sidecar = found.sidecar
        layers = ", ".join(f"{count} {kind}" for kind, count in (sidecar.precision_found or {}).items())
        facts += [
            ("for", sidecar.target),
            ("precision asked", sidecar.precision_asked),
            ("layers found", layers or sidecar.precision_note),
            ("profile", jsonlib.dumps(sidecar.profile) if sidecar.profile else "fixed shapes"),
            *_facts(sidecar.spec),
        ]
    if found.note:
        facts.append(("note", found.note))
    print_table(("fact", "value"), facts)
    tensors = (found.engine or {}).get("tensors", {})
    if tensors:
        rows = [(item["mode"], name, item["dtype"], str(item["shape"])) for name, item in tensors.items()]
        print_table(("kind", "tensor", "type", "shape"), rows)


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="An .onnx file or an engine to look at, too.")] = None,
    json: Json = False,
) -> None:
    """Say what is installed, what works, and whether a file will; exit 1 when something is wrong."""
    from dataclasses import asdict

    from ..doctor import examine

    findings = examine(file)
    if json:
        print(jsonlib.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {True: "ok", False: "WRONG", None: "-"}
        print_table(("", "what", "found"), [(marks[item.fine], item.what, item.detail) for item in findings])
    if any(item.fine is False for item in findings):
        raise typer.Exit(1)


def _print_found(result: Result) -> None:
    from ..detections import DetectionResult

    if not isinstance(result, DetectionResult):
        _print_poses(result)
        return
    found = result.detections
    print(f"{result.source}: {len(found)} {'object' if len(found) == 1 else 'objects'}")
    rows = [
        (str(number), name, f"{score:.3f}", ", ".join(f"{side:.0f}" for side in box))
        for number, (name, score, box) in enumerate(zip(found.names, found.scores, found.boxes, strict=True))
    ]
    if rows:
        print_table(("#", "class", "score", "box x1, y1, x2, y2"), rows)


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
        print_table(("#", "score", "box x1, y1, x2, y2", "joints > 0.5", "surest joints"), rows)
