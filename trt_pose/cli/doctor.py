"""``trt-pose doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..documents import to_json
from .app import Json, app, print_table


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="An .onnx file or an engine to look at, too.")] = None,
    json: Json = False,
) -> None:
    """Say what is installed, what works, and whether a file will; exit 1 when something is wrong."""

    from ..doctor import examine

    findings = examine(file)
    if json:
        print(to_json(findings))
    else:
        marks = {True: "ok", False: "WRONG", None: "-"}
        print_table(("", "what", "found"), [(marks[item.fine], item.what, item.detail) for item in findings])
    if any(item.fine is False for item in findings):
        raise typer.Exit(1)
