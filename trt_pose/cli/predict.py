"""``trt-pose predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..documents import to_json
from .app import RUN, Command, app, gone, in_range, print_table

if TYPE_CHECKING:
    from ..results.detections import Result
    from ..results.poses import PoseResult


@app.command(
    cls=Command,
    rich_help_panel=RUN,
    epilog="""trt-pose predict pose.onnx photo.jpg --save drawn/
trt-pose predict pose.engine photos/ --json poses.json
trt-pose predict pose.onnx 0 --show""",
)
def predict(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file, or an engine.")],
    source: Annotated[str, typer.Argument(help="Image, folder, glob pattern, video, URL or camera number.")],
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the drawn images.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the poses as JSON; - is stdout.")] = None,
    show: Annotated[bool, typer.Option(help="Open each drawn image.")] = False,
    conf: Annotated[
        float | None,
        typer.Option(callback=in_range(0, 1), help="Keep predictions with a higher score.", show_default="the file's"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(callback=in_range(1), help="Images per run of a file with a dynamic batch.", show_default="1"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(callback=in_range(1), help="Threads of ONNX Runtime.", show_default="one per core")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(help="ONNX Runtime: cpu, openvino, cuda or tensorrt.", show_default="the fastest CPU one"),
    ] = None,
    precision: Annotated[str, typer.Option(help="ONNX Runtime: fp32, or bf16 with OpenVINO.")] = "fp32",
    device: Annotated[
        str | None, gone("--device", "use --provider cuda for .onnx files; engines run on the first visible GPU.")
    ] = None,
    half: Annotated[str | None, gone("--half", "the precision is the file's. Make one with trt-pose quantize.")] = None,
) -> None:
    """Find the people, or objects, in images and videos."""
    from ..errors import SourceError
    from ..files import check_writable
    from ..predictor import PosePredictor
    from ..results.sinks import PictureFolder, write_json

    records: list[dict[str, Any]] = []
    if json and json != Path("-"):
        check_writable(json, SourceError)  # before minutes of work, not after
    options: dict[str, Any] = {"threads": threads, "providers": None if provider is None else [provider]}
    if precision != "fp32":
        options["precision"] = precision
    with PosePredictor(model, conf=conf, **options) as predictor:
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
                _print_result(result)
    if json == Path("-"):
        print(to_json(records))
    elif json:
        write_json(records, json)


def _print_result(result: Result) -> None:
    from ..results.detections import DetectionResult
    from ..tasks import DETECTION

    if not isinstance(result, DetectionResult):
        _print_poses(result)
        return
    objects = result.detections
    print(f"{result.source}: {DETECTION.count(len(objects))}")
    rows = [
        (str(number), name, f"{score:.3f}", ", ".join(f"{side:.0f}" for side in box))
        for number, (name, score, box) in enumerate(zip(objects.names, objects.scores, objects.boxes, strict=True))
    ]
    if rows:
        print_table(("#", "class", "score", "box x1, y1, x2, y2"), rows)


def _print_poses(result: PoseResult) -> None:
    from ..tasks import POSE

    rows = []
    for number, pose in enumerate(result.poses):
        x1, y1, x2, y2 = pose.boxes[0]
        best = pose.joints[0, :, 2].argsort()[::-1][:3]
        seen = ", ".join(
            f"{pose.skeleton.names[i]} ({pose.joints[0, i, 0]:.0f}, {pose.joints[0, i, 1]:.0f})" for i in best
        )
        box = f"{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}"
        rows.append((str(number), f"{pose.scores[0]:.3f}", box, str(int((pose.joints[0, :, 2] > 0.5).sum())), seen))
    print(f"{result.source}: {POSE.count(len(rows))}")
    if rows:
        print_table(("#", "score", "box x1, y1, x2, y2", "joints > 0.5", "surest joints"), rows)
