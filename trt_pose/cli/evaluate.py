"""``trt-pose eval``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from ..errors import SourceError, UsageError
from .app import Json, SceneName, app, print_table
from .synthesize import synthesize_people


@app.command("eval")
def evaluate_files(
    files: Annotated[list[Path], typer.Argument(help="One or more .onnx files, engines or checkpoints; or demo.")],
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="COCO annotations, JSON.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the annotated images.")] = None,
    synthetic: Annotated[int | None, typer.Option(min=1, help="So many pictures of figures instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic pictures.")] = 1,
    scene: SceneName = "sparse",
    model: Annotated[str | None, typer.Option(help="Model of a checkpoint, see trt-pose models.")] = None,
    conf: Annotated[float, typer.Option(help="Count scores above it.")] = 0.01,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="Write COCO results (one file).")] = None,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw the worst images of the last file.")] = None,
    worst: Annotated[int, typer.Option(min=1, help="How many to list and draw.")] = 8,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything as JSON.")] = None,
    json: Json = False,
) -> None:
    """Average precision on annotated images; of several files also what each loses against the first."""
    from ..documents import to_json
    from ..evaluation import check_evaluator, evaluate_file
    from ..files import check_writable
    from ..images.annotations import Annotations
    from ..results.sinks import write_json

    if (synthetic is None) == (data is None) or (data is None) != (images is None):
        raise UsageError("evaluating: name --data and --images, or --synthetic alone.")
    if results is not None and len(files) > 1:
        raise UsageError("--results: it is for one file. Give one, or leave it out.")
    check_evaluator()
    for path in (report, results):
        if path is not None:
            check_writable(path, SourceError)
    with TemporaryDirectory(prefix="trt_pose_eval_") as folder:
        if data is None or images is None:
            data, images = synthesize_people(synthetic or 1, seed, scene, Path(folder)), Path(folder)
        annotated = Annotations.read(data, images)
        found = [evaluate_file(file, annotated, model, confidence=conf, results=results) for file in files]
        if json:
            print(to_json([item.to_dict() for item in found]))
        else:
            _print(found, worst)
        if report is not None:
            write_json([item.to_dict() for item in found], report)
        if save is not None:
            _draw(found[-1], images, save, worst, model)


def _print(found: list[Any], worst: int) -> None:
    names = [name for name, value in found[0].metrics.items() if value is not None]
    header = ("file", *names, *(("AP lost",) if len(found) > 1 else ()))
    rows = []
    for item in found:
        lost = (f"{(found[0].metrics['AP'] or 0) - (item.metrics['AP'] or 0):.4f}",) if len(found) > 1 else ()
        rows.append((item.file, *(f"{item.metrics[name] or 0:.4f}" for name in names), *lost))
    print_table(header, rows)
    last = found[-1]
    missed = [item for item in last.per_image if item.missed][:worst]
    if missed:
        table = [(item.source, f"{item.annotated}", f"{item.missed}", f"{item.extra}") for item in missed]
        print_table((f"worst images of {Path(last.file).name}", "annotated", "missed", "extra"), table)
    print(f"{last.images} images, {last.annotated} annotated, scores above {last.confidence:g}")


def _draw(evaluation: Any, images: Path, folder: Path, worst: int, model: str | None) -> None:
    """The worst images with what the file finds in them above 0.3."""
    from ..evaluation import open_predictor
    from ..results.sinks import PictureFolder

    pictures = PictureFolder(folder)
    with open_predictor(evaluation.file, model, max(evaluation.confidence, 0.3), {}) as predictor:
        for result in predictor.stream([str(images / item.source) for item in evaluation.per_image[:worst]]):
            pictures.write(result)
