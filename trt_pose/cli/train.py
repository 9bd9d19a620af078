"""``trt-pose train``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..choices import SceneName, ScoreLoss, TrainPrecision
from ..errors import UsageError
from ..optional import needed
from .app import TRAIN, Command, ImageSize, Json, Scene, app, in_range, read_size, say, speaking

if TYPE_CHECKING:
    from ..training.options import TrainOptions


_DATA, _RECIPE = "Data", "Recipe"
# The options that a run was begun with, in its folder; and the mark that they were read again.
_RUN_FILE, _RECALLED = "run.json", "trt_pose.recalled"
# The names of the training options, and what they are called here.
_OPTIONS = {
    "learning_rate": "--lr", "warmup_steps": "--warmup", "final_share": "--final", "clip_norm": "--clip",
    "ema_decay": "--ema", "evaluate_every": "--evaluate-every", "input_image_shape": "--imgsz",
}  # fmt: skip


@app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog="""trt-pose train --weights coco_pose --data train.json --images images/ --val-data val.json \\
    --val-images images/ -o runs/first
trt-pose train --model demo --synthetic 256 --epochs 3 --val-synthetic 30 -o runs/demo
trt-pose train --qat pose.onnx --data train.json --images images/ -o runs/qat""",
)
def train(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and curves.")],
    model: Annotated[
        str | None,
        typer.Option(help="Name of a YOLO-NAS-Pose, or demo.", show_default="yolo_nas_pose_n"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Published weights or a checkpoint to start from; none for untrained.",
            show_default="untrained; demo: its own",
        ),
    ] = None,
    imgsz: ImageSize = None,
    qat: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fine-tune this exported FP32 .onnx file for INT8 instead.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue the training run in the output folder.")] = False,
    as_json: Json = False,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_DATA, help="COCO keypoint annotations, JSON.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", rich_help_panel=_DATA, help="Folder of the annotated images.")
    ] = None,
    synthetic: Annotated[
        int | None,
        typer.Option(
            callback=in_range(1),
            rich_help_panel=_DATA,
            help="Train on this many new synthetic images per epoch instead.",
        ),
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_DATA, help="Validation annotations (COCO JSON).")
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(metavar="DIR", rich_help_panel=_DATA, help="Folder of the validation images.")
    ] = None,
    val_synthetic: Annotated[
        int | None,
        typer.Option(
            callback=in_range(1), rich_help_panel=_DATA, help="Validate on this many synthetic images instead."
        ),
    ] = None,
    scene: Scene = SceneName.SPARSE,
    epochs: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Number of epochs.", show_default="300; --qat: 5")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Images per step.", show_default="32")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Steps per weight update.", show_default="1")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(rich_help_panel=_RECIPE, help="Peak learning rate.", show_default="1e-3; --qat: 1e-5"),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(rich_help_panel=_RECIPE, help="Warm-up updates.", show_default="1000; --qat: 100"),
    ] = None,
    final: Annotated[
        float | None,
        typer.Option(rich_help_panel=_RECIPE, help="Final learning rate as a fraction of --lr.", show_default="0.05"),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_RECIPE, help="Maximum gradient norm; 0 for no clipping.", show_default="0; --qat: 35"
        ),
    ] = None,
    classification: Annotated[
        ScoreLoss | None, typer.Option(rich_help_panel=_RECIPE, help="Loss of the scores.", show_default="focal")
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_RECIPE,
            help="Weight of the distance loss of the joints.",
            show_default="10; 0 with --weights",
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(rich_help_panel=_RECIPE, help="Decay of the averaged weights.", show_default="0.997"),
    ] = None,
    precision: Annotated[
        TrainPrecision | None, typer.Option(rich_help_panel=_RECIPE, help="Forward precision.", show_default="fp32")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(rich_help_panel=_RECIPE, help="Torch device.", show_default="the GPU if there is one, else cpu"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Loader processes.", show_default="2")
    ] = None,
    seed: Annotated[int | None, typer.Option(rich_help_panel=_RECIPE, help="Random seed.", show_default="0")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Epochs between evaluations.", show_default="1")
    ] = None,
) -> None:
    """Train or fine-tune a YOLO-NAS-Pose on COCO keypoint annotations with any joints.

    --resume alone goes on as the run in the output folder was begun.
    """
    if resume and _RECALLED not in context.meta:
        _go_on(context, output)
        return
    from ..documents import to_json
    from ..evaluation import in_words
    from ..images.synthetic import find_scene

    chosen: dict[str, Any] = {
        "epochs": epochs, "batch": batch, "accumulate": accumulate, "learning_rate": lr, "warmup_steps": warmup,
        "final_share": final, "clip_norm": clip, "ema_decay": ema, "precision": precision, "device": device,
        "workers": workers, "seed": seed, "evaluate_every": evaluate_every, "classification": classification,
    }  # fmt: skip
    with needed("training"):
        from .. import training
    name = model or "yolo_nas_pose_n"
    base = training.QAT if qat else training.usual_options(name, weights)
    if distance is not None:
        chosen["loss"] = replace(base.loss, distance=distance)
    people = find_scene(scene)
    with speaking(_OPTIONS), _lines_for_epochs(output):
        options: TrainOptions = replace(base, **{name: value for name, value in chosen.items() if value is not None})
        train_data = training.TrainData(data, images, synthetic, options.seed, people)
        validation, of_it = None, (val_data, val_images, val_synthetic)
        if any(item is not None for item in of_it):
            validation = training.TrainData(*of_it, training.VALIDATION_SEED, people)
        how: dict[str, Any] = {"validation": validation, "resume": resume}
        if qat is not None:
            if (model, weights, imgsz) != (None, None, None):
                raise UsageError("--model, --weights, --imgsz: with --qat the file decides. Leave them out.")
            _remember(context, output)
            made, progress = training.train_quantized(qat, train_data, output, options, **how)
        else:
            network = training.start_model(name, weights, train_data.skeleton(), read_size(imgsz), options.seed)
            _remember(context, output)
            made, progress = output, training.train(network, train_data, output, options, **how)
    if as_json:
        say(to_json({"output": str(made), "epochs": progress.epoch, "metrics": progress.metrics}))
    else:
        metrics = in_words(progress.metrics or {})
        say(f"{made}: {progress.epoch} epochs{', the best with ' if metrics else ''}{metrics}")


def _remember(context: typer.Context, output: Path) -> None:
    """Writes the options that were given into the output folder, with absolute paths, for ``--resume``."""
    from ..errors import SourceError, TrainingError
    from ..files import exclusive, make_folder, write_atomically
    from ..training.checkpoints import LATEST

    if (output / LATEST).exists():  # a run is there, which goes on or is refused
        return
    text = json.dumps(_given(context), indent=2) + "\n"
    path = make_folder(output, SourceError) / _RUN_FILE
    with exclusive(output, TrainingError):
        write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), SourceError)


def _given(context: typer.Context) -> list[str]:
    """The options on the command line as words, without those that belong to this call alone."""
    words: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in ("output", "resume", "as_json"):
            continue
        value = context.params[name]
        is_path = isinstance(value, Path) or (name == "weights" and Path(value).exists())
        words += [option.opts[0], str(Path(value).resolve() if is_path else value)]
    return words


def _go_on(context: typer.Context, output: Path) -> None:
    """Runs the command with the options that the run in ``output`` was begun with; those given now come later."""
    path = output / _RUN_FILE
    try:
        begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if not (isinstance(begun, list) and all(isinstance(word, str) for word in begun)):
            raise ValueError("it is no list of words")
    except (OSError, ValueError) as error:
        raise UsageError(f"resuming {output}: {path.name} cannot be read: {error}. Name the options again.") from error
    extra = ["--output", str(output), "--resume", *(["--json"] if context.params["as_json"] else [])]
    with context.command.make_context("train", [*begun, *_given(context), *extra]) as again:
        again.meta[_RECALLED] = True
        context.command.invoke(again)


@contextmanager
def _lines_for_epochs(output: Path) -> Iterator[None]:
    """Writes a line for each epoch to standard error; on Ctrl-C says how to go on."""
    logger, handler = logging.getLogger("trt_pose.training"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # of a signal
        logger.info("stopped; trt-pose train -o %s --resume goes on after the last whole epoch", output)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
