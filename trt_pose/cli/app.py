"""What the commands share: the application, ``--json``, ``--scene``, ``--imgsz``, tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .._version import __version__
from ..errors import UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pose models from PyTorch to ONNX, and poses from images.",
)


Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
SceneName = Annotated[str, typer.Option(help="Who is in them: sparse (1 to 3 people) or crowded.")]


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


def read_size(text: str | None) -> tuple[int, int] | None:
    """``--imgsz`` as height and width."""
    if text is None:
        return None
    sizes = re.fullmatch(r"(\d+)(?:[x, ](\d+))?", text)
    if not sizes:
        raise UsageError(f"--imgsz: got {text!r}, expected SIZE or H W. Correct it.")
    return int(sizes[1]), int(sizes[2] or sizes[1])


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=SIMPLE)
    for row in rows:
        table.add_row(*map(Text, row))  # names of files and joints are not markup
    # Rich folds to 80 columns where there is no terminal: a file or pipe gets room.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
