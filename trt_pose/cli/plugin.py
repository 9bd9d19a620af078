"""``trt-pose plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import MAKE, Command, Group, app, say

plugin_app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode=None, help="Compile the TensorRT plugin, find its headers."
)
app.add_typer(plugin_app, name="plugin", rich_help_panel=MAKE)


@plugin_app.command("build", cls=Command, epilog="trt-pose plugin build --include TensorRT/include")
def plugin_build(
    include: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of TensorRT's headers.", show_default="searched"),
    ] = None,
    architectures: Annotated[
        str | None,
        typer.Option(help="GPUs to build for, as CMake names them: 75-real;90.", show_default="Turing and newer"),
    ] = None,
) -> None:
    """Compile libtrt_pose_plugins.so; needs CMake, nvcc and TensorRT's headers."""
    from ..trt.compile_plugins import build_plugin

    say(build_plugin(include, architectures))


@plugin_app.command("include", cls=Command, epilog="g++ -I$(trt-pose plugin include) -c mine.cpp")
def plugin_include() -> None:
    """Print the folder of the C++ headers."""
    from ..trt.compile_plugins import get_include

    say(get_include())
