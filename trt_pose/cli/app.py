"""What the commands share: the application and its help pages, common options, tables, messages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from .._version import __version__
from ..choices import DetectionOutputFormatMode, ExportTargetBackend, SceneName
from ..documents import printable
from ..errors import ExportError, UsageError

MAKE, RUN, CHECK, TRAIN = "Make", "Run", "Check", "Train"


class Command(TyperCommand):
    """A command whose help page keeps option names whole at any width and ends with examples.

    Options are grouped by their ``rich_help_panel``.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                argument = param.param_type_name == "argument"
                panel = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's signature
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Group(TyperGroup):
    """The list of commands, in panels and in the order of work."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in (MAKE, RUN, CHECK, TRAIN)}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panel = str(getattr(command, "rich_help_panel", None) or "Commands")
            panels.setdefault(panel, []).append((name, command.get_short_help_str(limit=100)))
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Export pose models to ONNX and TensorRT with pre- and post-processing inside, and run them.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Backend = Annotated[
    ExportTargetBackend, typer.Option(help="Runtime of the file; tensorrt puts plugin nodes for NMS into it.")
]
OutputFormat = Annotated[
    DetectionOutputFormatMode,
    typer.Option("--format", help="Padded arrays per image, or one row per person over all images."),
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="SIZE|H W", help="Input size, px, multiples of 32.", show_default="the model's")
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=".onnx files: auto, openvino, cpu, cuda or tensorrt; auto takes OpenVINO for INT8, if installed.",
        show_default="auto",
    ),
]
Scene = Annotated[
    SceneName, typer.Option(help="People in the synthetic images: 1 to 3 large ones, or up to 8 of all sizes.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"trt-pose {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def gone(option: str, instead: str) -> Any:
    """An option of another tool that this command does not have; using it says what to do instead.

    Args:
        option: its name, ``--device``.
        instead: a sentence.
    """

    def refuse(given: Any) -> Any:
        if given not in (None, False):
            raise UsageError(f"{option}: {instead}")
        return given

    return typer.Option(option, hidden=True, callback=refuse)


def in_range(low: float, high: float | None = None) -> Any:
    """A callback that refuses numbers outside ``low`` to ``high`` and names the option."""

    def check(param: typer.CallbackParam, value: Any) -> Any:
        if value is not None and (not value >= low or (high is not None and not value <= high)):
            option = max(param.opts, key=len)
            expected = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise UsageError(f"{option}: got {value:g}, expected {expected}")
        return value

    return check


def wrong_value(error: Any, arguments: Sequence[str]) -> str:
    """One sentence for a value that an option does not take: ``--format: got 'rows', expected batch or flat``.

    Args:
        error: click's BadParameter.
        arguments: the command line.
    """
    param = error.param
    names = [name for name in param.opts if any(word.split("=")[0] == name for word in arguments)]
    if not names:
        return str(error.format_message())
    at, word = next((at, word) for at, word in enumerate(arguments) if word.split("=")[0] == names[0])
    value = word.partition("=")[2] if "=" in word else " ".join(arguments[at + 1 : at + 2])
    message = str(error.message)
    words = re.findall(r"'([^']*)'", message.partition(" is not one of ")[2])
    if words:
        expected = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    elif "integer" in message:
        expected = "a whole number"
    elif "number" in message or "float" in message:
        expected = "a number"
    else:
        return f"{names[0]}: {message}"
    return f"{names[0]}: got {value!r}, expected {expected}"


@contextmanager
def speaking(options: Mapping[str, str]) -> Iterator[None]:
    """Renames Python parameters in the messages of errors to the options of the command line.

    Args:
        options: parameter to option, ``{"confidence_threshold": "--conf"}``.
    """
    try:
        yield
    except (UsageError, ExportError) as error:
        text = str(error)
        for name, option in options.items():
            text = re.sub(rf"\b{re.escape(name)}=", f"{option} ", text)
            text = re.sub(rf"\b{re.escape(name)}\b", option, text)
        if text == str(error):
            raise
        raise type(error)(text) from error


def _allow_host_code(value: bool) -> bool:
    if value:
        from ..trt.inspector import allow_host_code

        allow_host_code()
    return value


HostCode = Annotated[
    bool,
    typer.Option(
        "--allow-host-code", callback=_allow_host_code, help="Let version-compatible engines run the code they bring."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")]


def read_size(text: str | None) -> tuple[int, int] | None:
    """Parses ``--imgsz``; returns (height, width)."""
    if text is None:
        return None
    sizes = re.fullmatch(r"(\d+)(?:[x, ](\d+))?", text)
    if not sizes:
        raise UsageError(f"--imgsz: got {text!r}, expected SIZE or H W.")
    return int(sizes[1]), int(sizes[2] or sizes[1])


def read_gpus(option: str, text: str | None) -> tuple[int, ...]:
    """Parses numbers of GPUs, ``0`` or ``0,1``; none when None."""
    if text is None:
        return ()
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise UsageError(f"{option}: got {text!r}, expected numbers of GPUs, as 0 or 0,1.")
    return tuple(map(int, text.split(",")))


def read_batch(text: str) -> int | str:
    """Parses ``--batch``: a number or ``dynamic``."""
    return int(text) if text.isascii() and text.isdigit() else text


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Prints a table; in a file or pipe it is 200 columns wide."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=SIMPLE)
    for row in rows:
        # Names of files and joints are neither markup nor control sequences.
        table.add_row(*(Text(printable(cell, lines=False)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def say(text: object, file: TextIO | None = None, lines: bool = True) -> None:
    """Prints text with control characters escaped, and line breaks unless ``lines``; all text goes this way."""
    print(printable(text, lines), file=file)


def fail(message: str) -> NoReturn:
    """Prints an error and ends with exit code 1, after results were printed."""
    say(f"error: {message}", sys.stderr, lines=False)
    raise typer.Exit(1)
