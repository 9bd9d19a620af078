"""The train command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..optional import needed
from .app import Json, SceneName, app, read_size

if TYPE_CHECKING:
    from ..training.options import TrainOptions


@app.command()
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and curves.")],
    model: Annotated[str | None, typer.Option(help="yolo_nas_pose_n when left out; s, m, l, or demo.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="COCO keypoint annotations, JSON.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the annotated images.")] = None,
    synthetic: Annotated[int | None, typer.Option(min=1, help="So many figures' pictures an epoch instead.")] = None,
    val_data: Annotated[Path | None, typer.Option(metavar="FILE", help="What AP is measured on.")] = None,
    val_images: Annotated[Path | None, typer.Option(metavar="DIR", help="Its images.")] = None,
    val_synthetic: Annotated[int | None, typer.Option(min=1, help="So many figures' pictures instead.")] = None,
    scene: SceneName = "sparse",
    qat: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fine-tune an exported FP32 .onnx file for INT8 instead.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Published weights, a checkpoint; untrained without.")] = None,
    imgsz: Annotated[str | None, typer.Option(metavar="SIZE | H W", help="Input size, multiples of 32.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures per step.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps per update.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its highest.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Updates it rises for.")] = None,
    final: Annotated[float | None, typer.Option(help="Share of it at the end.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of a gradient; 0 for any.")] = None,
    classification: Annotated[str | None, typer.Option(help="Loss of the scores: focal, varifocal or bce.")] = None,
    distance: Annotated[
        float | None, typer.Option(help="Weight of the joints' plain distance; 10 without --weights, else 0.")
    ] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that make pictures.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Epochs between evaluations.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the training in the output folder.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a pose model, or train one, on COCO keypoint annotations of any joints."""
    from ..documents import to_json
    from ..evaluation import in_words
    from ..images.synthetic import find_scene

    chosen: dict[str, Any] = {
        "epochs": epochs, "batch": batch, "accumulate": accumulate, "learning_rate": lr, "warmup_steps": warmup,
        "final_share": final, "clip_norm": clip, "ema_decay": ema, "precision": precision, "device": device,
        "workers": workers, "seed": seed, "evaluate_every": evaluate_every, "classification": classification,
    }  # fmt: skip
    with needed("training"):
        from ..training import train as run
    base = run.QAT if qat else run.FROM_NOTHING if weights is None else run.FINE_TUNING
    if distance is not None:
        chosen["loss"] = replace(base.loss, distance=distance)
    options: TrainOptions = replace(base, **{name: value for name, value in chosen.items() if value is not None})
    people = find_scene(scene)
    learnt = run.Data(data, images, synthetic, options.seed, people)
    measured = None
    if (val_data, val_images, val_synthetic) != (None, None, None):
        measured = run.Data(val_data, val_images, val_synthetic, run.VALIDATION_SEED, people)
    if qat is not None:
        if (model, weights, imgsz) != (None, None, None):
            raise UsageError("--model, --weights, --imgsz: with --qat the file says them. Leave them out.")
        made, progress = run.train_quantized(qat, learnt, output, options, validation=measured, resume=resume)
    else:
        name = model or "yolo_nas_pose_n"
        network = run.start_model(name, weights, learnt.skeleton(), read_size(imgsz), options.seed)
        made, progress = output, run.train(network, learnt, output, options, validation=measured, resume=resume)
    if json:
        print(to_json({"output": str(made), "epochs": progress.epoch, "metrics": progress.metrics}))
    else:
        metrics = in_words(progress.metrics or {})
        print(f"{made}: {progress.epoch} epochs{', the best with ' if metrics else ''}{metrics}")
