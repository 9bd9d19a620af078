"""``trt-pose plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app

plugin_app = typer.Typer(no_args_is_help=True, help="The TensorRT plugin.")
app.add_typer(plugin_app, name="plugin")


@plugin_app.command("build")
def plugin_build(
    include: Annotated[Path | None, typer.Option(metavar="DIR", help="TensorRT's headers.")] = None,
    architectures: Annotated[str | None, typer.Option(help="GPUs, as CMake names them: 75-real;90.")] = None,
) -> None:
    """Compile libtrt_pose_plugins.so; needs CMake, nvcc and TensorRT's headers."""
    from ..trt.compile_plugins import build_plugin

    print(build_plugin(include, architectures))
