"""``trt-pose compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..documents import to_json
from .app import CHECK, Command, HostCode, Json, Strict, app, fail, in_range, print_table, say


@app.command(
    cls=Command,
    rich_help_panel=CHECK,
    epilog="""trt-pose compare pose.onnx pose_int8.onnx --images photos/
trt-pose compare pose.onnx pose.engine --images photos/ --report compare.html --max-oks-loss 0.02""",
)
def compare(
    first: Annotated[Path, typer.Argument(help="The reference: an .onnx file or an engine.")],
    second: Annotated[Path, typer.Argument(help="The file to compare.")],
    images: Annotated[str, typer.Option(help="Image, folder or glob pattern.")],
    conf: Annotated[
        float | None,
        typer.Option(
            callback=in_range(0, 1),
            help="Keep predictions with a higher score.",
            show_default="0.25, or the files' threshold",
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-oks-loss",
            "--max-loss",
            callback=in_range(0, 1),
            help="Exit with 1 if the loss of OKS or IoU is higher.",
        ),
    ] = None,
    tensors: Annotated[
        bool,
        typer.Option("--tensors", help="Compare the output tensors, and the inner ones of two ONNX files, too."),
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page.")] = None,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=".onnx files: openvino, auto, cuda or tensorrt.", show_default="cpu"),
    ] = None,
    host_code: HostCode = False,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Compare the people, or objects, that two files find in the same images."""
    from ..comparison import check_loss, compare as compare_files
    from ..tasks import TASKS

    result = compare_files(
        first,
        second,
        images,
        confidence=conf,
        tensors=tensors,
        report=report,
        max_loss=max_loss,
        strict=strict,
        providers=provider,
    )
    if json:
        say(to_json(result.to_dict()))
    else:
        _print(result)
    if max_loss is not None and not check_loss(result, max_loss):
        fail(f"{TASKS[result.task].similarity} loss {result.loss:.4f} is over --max-oks-loss {max_loss:g}")


def _print(result: Any) -> None:
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
    if result.outputs:
        gaps = [
            (name, f"{gap.max_abs:.3g}", f"{gap.mean_abs:.3g}", f"{gap.max_rel:.3g}")
            for name, gap in result.outputs.items()
        ]
        print_table(("output, first image, row by row", "largest difference", "mean", "largest relative"), gaps)
    say(result)
