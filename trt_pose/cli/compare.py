"""``trt-pose compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..documents import to_json
from .app import Json, app, print_table


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
    from ..comparison import check_loss, compare as compare_files

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
