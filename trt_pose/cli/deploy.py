"""``trt-pose deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import RUN, Command, Group, app, in_range, read_gpus, say, speaking

deploy_app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode=None, help="Write folders for Triton and DeepStream."
)
app.add_typer(deploy_app, name="deploy", rich_help_panel=RUN)
_OPTIONS = {
    "max_batch": "--max-batch", "delay_us": "--delay-us", "instances": "--instances", "gpus": "--gpus",
    "preprocess_instances": "--preprocess-instances", "threads": "--threads", "plugins": "--plugins",
    "release": "--triton", "name": "--name",
}  # fmt: skip

Output = Annotated[Path, typer.Option("--output", "-o", help="The folder to write, which does not exist yet.")]
Plugins = Annotated[
    Path | None,
    typer.Option(metavar="LIBRARY", help="Plugin library of an engine that needs it.", show_default="searched"),
]


@deploy_app.command(
    cls=Command,
    epilog="""trt-pose deploy triton pose.engine -o server
trt-pose deploy triton pose.onnx -o server --max-batch 4 --threads 2""",
)
def triton(
    model: Annotated[str, typer.Argument(help="An engine of TensorRT, or an .onnx file.")],
    output: Output,
    name: Annotated[str, typer.Option(help="Name of the model that clients ask.")] = "pose",
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Serve the network alone: clients send letterboxed images.")
    ] = False,
    max_batch: Annotated[
        int | None,
        typer.Option(callback=in_range(1), help="Images per run at most.", show_default="the engine's, or 8"),
    ] = None,
    delay_us: Annotated[
        int, typer.Option(callback=in_range(0), help="How long a batch may wait to fill, microseconds.")
    ] = 2000,
    instances: Annotated[int, typer.Option(callback=in_range(1), help="Copies of the network, on each GPU.")] = 1,
    gpus: Annotated[str | None, typer.Option(metavar="I,J", help="GPUs for the network.", show_default="all")] = None,
    preprocess_instances: Annotated[int, typer.Option(callback=in_range(1), help="Processes that decode images.")] = 2,
    threads: Annotated[
        int | None, typer.Option(callback=in_range(1), help="Threads of ONNX Runtime.", show_default="one per core")
    ] = None,
    plugins: Plugins = None,
    release: Annotated[
        str | None, typer.Option("--triton", metavar="YY.MM", help="Release of Triton.", show_default="a fitting one")
    ] = None,
) -> None:
    """Write a model repository for Triton: clients send image files and get poses."""
    from ..deploy import TritonOptions, triton as write

    with speaking(_OPTIONS):
        options = TritonOptions(
            name=name,
            pixels=pixels,
            max_batch=max_batch,
            delay_us=delay_us,
            instances=instances,
            gpus=read_gpus("--gpus", gpus),
            preprocess_instances=preprocess_instances,
            threads=threads,
            plugins=plugins,
            release=release,
        )
        say(write(model, output, options))


@deploy_app.command(cls=Command, epilog="trt-pose deploy deepstream pose.engine -o pipeline")
def deepstream(
    model: Annotated[str, typer.Argument(help="An engine of a pose model with float32 input.")],
    output: Output,
    plugins: Plugins = None,
) -> None:
    """Write nvinfer's configuration, a parser library and a probe for DeepStream."""
    from ..deploy import deepstream as write

    with speaking(_OPTIONS):
        say(write(model, output, plugins=plugins))
