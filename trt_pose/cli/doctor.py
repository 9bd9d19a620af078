"""``trt-pose doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..documents import to_json
from .app import CHECK, Command, Json, app, print_table, say


@app.command(cls=Command, rich_help_panel=CHECK, epilog="trt-pose doctor\ntrt-pose doctor pose.engine")
def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="An .onnx file or an engine to check, too.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show what is installed, what works, and whether a file will run; exit with 1 if something is wrong."""
    from ..doctor import examine

    checks = examine(file)
    if json:
        say(to_json(checks))
    else:
        marks = {True: "ok", False: "WRONG", None: "-"}
        print_table(("", "what", "result"), [(marks[check.fine], check.what, check.detail) for check in checks])
    if any(check.fine is False for check in checks):
        raise typer.Exit(1)
