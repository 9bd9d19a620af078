"""``trt-pose eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..choices import SceneName
from ..errors import SourceError, UsageError
from .app import CHECK, Command, HostCode, Json, Provider, Scene, Strict, app, in_range, print_table, say
from .synthesize import synthesize_people


@app.command(
    "eval",
    cls=Command,
    rich_help_panel=CHECK,
    epilog="""trt-pose eval pose.onnx pose_int8.onnx --data person_keypoints.json --images images/
trt-pose eval demo demo.onnx --synthetic 60""",
)
def evaluate_files(
    files: Annotated[list[Path], typer.Argument(help="One or more .onnx files, engines or checkpoints; or demo.")],
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="COCO annotations, JSON.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the annotated images.")] = None,
    synthetic: Annotated[
        int | None, typer.Option(callback=in_range(1), help="Evaluate on this many synthetic images instead.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the synthetic images.")] = 1,
    scene: Scene = SceneName.SPARSE,
    model: Annotated[str | None, typer.Option(help="Name of the model of a checkpoint.")] = None,
    conf: Annotated[float, typer.Option(callback=in_range(0, 1), help="Count predictions with a higher score.")] = 0.01,
    results: Annotated[Path | None, typer.Option(metavar="FILE", help="Write COCO results (one file only).")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for drawings of the last file's worst images.")
    ] = None,
    worst: Annotated[int, typer.Option(callback=in_range(1), help="Number of images to list and draw.")] = 8,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all results as JSON.")] = None,
    provider: Provider = None,
    host_code: HostCode = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Measure average precision on annotated images, and what each file loses against the first."""
    from ..documents import to_json
    from ..evaluation import check_evaluator, evaluate_file
    from ..files import check_writable, temporary_folder
    from ..images.annotations import Annotations
    from ..results.sinks import write_json

    if (synthetic is None) == (data is None) or (data is None) != (images is None):
        raise UsageError("--data: give it with --images, or give --synthetic, not both.")
    if results is not None and len(files) > 1:
        raise UsageError("--results: it is for one file. Give one, or leave it out.")
    check_evaluator()
    for path in (report, results):
        if path is not None:
            check_writable(path, SourceError)
    with temporary_folder("eval") as folder:
        if data is None or images is None:
            images = folder / "people"
            data = synthesize_people(synthetic or 1, seed, scene, images)
        annotated = Annotations.read(data, images)
        evaluations = [
            evaluate_file(
                file, annotated, model, confidence=conf, results=results, strict=strict, **_options(file, provider)
            )
            for file in files
        ]
        if json:
            say(to_json([item.to_dict() for item in evaluations]))
        else:
            _print(evaluations, worst)
        if report is not None:
            write_json([item.to_dict() for item in evaluations], report)
        if save is not None:
            _draw(evaluations[-1], images, save, worst, model)


def _options(file: Path, provider: str | None) -> dict[str, str]:
    """Returns how a file is opened: engines and checkpoints have no provider."""
    return {"providers": provider} if provider is not None and file.suffix.lower() == ".onnx" else {}


def _print(evaluations: list[Any], worst: int) -> None:
    names = [name for name, value in evaluations[0].metrics.items() if value is not None]
    header = ("file", *names, *(("AP lost",) if len(evaluations) > 1 else ()))
    rows = []
    for item in evaluations:
        lost = (evaluations[0].metrics["AP"] or 0) - (item.metrics["AP"] or 0)
        columns = (f"{lost:.4f}",) if len(evaluations) > 1 else ()
        rows.append((item.file, *(f"{item.metrics[name] or 0:.4f}" for name in names), *columns))
    print_table(header, rows)
    last = evaluations[-1]
    missed = [item for item in last.per_image if item.missed][:worst]
    if missed:
        table = [(item.source, f"{item.annotated}", f"{item.missed}", f"{item.extra}") for item in missed]
        print_table((f"worst images of {Path(last.file).name}", "annotated", "missed", "extra"), table)
    say(f"{last.images} images, {last.annotated} annotated, scores above {last.confidence:g}")


def _draw(evaluation: Any, images: Path, folder: Path, worst: int, model: str | None) -> None:
    """Draws the predictions above 0.3 on the worst images."""
    from ..evaluation import open_predictor
    from ..results.sinks import Drawings

    pictures = Drawings(folder)
    with open_predictor(evaluation.file, model, max(evaluation.confidence, 0.3), {}) as predictor:
        for result in predictor.stream([str(images / item.source) for item in evaluation.per_image[:worst]]):
            pictures.write(result)
