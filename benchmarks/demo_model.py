"""Trains the demonstration model from nothing and puts its weights into the package, with its model card.

python benchmarks/demo_model.py                      # a folder build/demo_model; goes on where it was stopped
python benchmarks/demo_model.py --device cuda --batch 64 --precision bf16 --workers 12 --epochs 30 60 150
python benchmarks/demo_model.py --package FILE       # only packages a checkpoint
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import sentence
from safetensors.torch import save_file

import trt_pose
from trt_pose import models
from trt_pose.benchmark.machine import machine
from trt_pose.evaluation import evaluate_model
from trt_pose.images.annotations import Annotations
from trt_pose.images.synthetic import SCENES, Scene, SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.models.model import PoseModel
from trt_pose.skeleton import COCO
from trt_pose.training.checkpoints import BEST, LATEST, processing_params
from trt_pose.training.loss import LossWeights
from trt_pose.training.options import TrainOptions
from trt_pose.training.train import TrainData, start_model, train

ASSETS = Path(trt_pose.__file__).parent / "assets"
PICTURES = 2048  # of an epoch
HELD_OUT = 500


@dataclass(frozen=True)
class Stage:
    """Side of the input, who is in the pictures, learning rate and its share at the end, epochs."""

    side: int
    scene: Scene
    rate: float
    final: float
    epochs: int


# Small pictures first, where a step costs a third; then more people in each than it is measured on: there is more to
# learn from them.
STAGES = (
    Stage(192, SCENES["sparse"], 2e-3, 0.3, 60),
    Stage(320, Scene((2, 5), SCENES["sparse"].heights), 2e-3, 0.5, 50),
    Stage(320, Scene((1, 5), SCENES["sparse"].heights), 1.2e-3, 0.01, 50),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, nargs=len(STAGES), default=[stage.epochs for stage in STAGES])
    parser.add_argument("--package", type=Path, help="a checkpoint to package, without training")
    chosen = parser.parse_args()
    package(chosen.package or run(chosen), chosen.output)


def run(chosen: argparse.Namespace) -> Path:
    """All stages; the checkpoint of the last."""
    weights: Path | None = None
    for number, (stage, epochs) in enumerate(zip(STAGES, chosen.epochs, strict=True)):
        folder = chosen.output / f"stage{number + 1}"
        options = TrainOptions(
            epochs=epochs, batch=chosen.batch, learning_rate=stage.rate, final_share=stage.final, warmup_steps=100,
            clip_norm=35.0, precision=chosen.precision, device=chosen.device, workers=chosen.workers, seed=number,
            evaluate_every=10, loss=LossWeights(distance=10.0),
        )  # fmt: skip
        model = start_model("demo", str(weights) if weights else "none", COCO, (stage.side, stage.side))
        train(
            model,
            TrainData(synthetic=PICTURES, seed=number, scene=stage.scene),
            folder,
            options,
            validation=TrainData(synthetic=200, seed=2),
            resume=(folder / LATEST).exists(),
        )
        weights = folder / BEST
    assert weights is not None
    return weights


def package(checkpoint: Path, folder: Path) -> None:
    """The averaged weights in half precision, and the model card."""
    model = models.get("demo", checkpoint_path=checkpoint)
    assert isinstance(model, PoseModel)
    fresh = start_model("demo", "none", COCO, None)
    model.processing = fresh.processing
    tensors = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if ".rbr_reparam." not in name  # placeholders
    }
    params = json.dumps(processing_params(model.processing))
    save_file({name: value.contiguous() for name, value in tensors.items()}, ASSETS / "demo.safetensors",
              {"processing_params": params})  # fmt: skip
    (ASSETS / "demo.safetensors").chmod(0o644)  # safetensors gives it to its writer alone
    folder.mkdir(parents=True, exist_ok=True)
    packaged = models.get("demo")
    rows = []
    for name, scene in SCENES.items():
        data = Annotations.read(
            write_coco(SyntheticPeople(HELD_OUT, seed=1, scene=scene), folder / name), folder / name
        )
        rows.append((name, evaluate_model(packaged, data).metrics))
    write_card(rows, sum(value.numel() for value in tensors.values()))


def write_card(rows: list[tuple[str, dict[str, Any]]], numbers: int) -> None:
    """Fills the measured part of the card; the words above it are kept."""
    card = ASSETS / "demo.md"
    words = (
        card.read_text(encoding="utf-8").partition("## Measured\n")[0]
        if card.exists()
        else "# The demonstration model\n\n"
    )
    size = (ASSETS / "demo.safetensors").stat().st_size / 1e6
    where = sentence(machine(("torch", "numpy", "opencv-python-headless", "faster-coco-eval")))
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR")
    lines = [
        "## Measured",
        "",
        f"Written by `benchmarks/demo_model.py` on {where}",
        f"{numbers / 1e6:.2f} million numbers in half precision, {size:.1f} MB. {HELD_OUT} pictures of each kind of"
        " scene (seed 1, of which no training picture is made), in FP32 by torch:",
        "",
        f"| scene | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(f"| {name} | {' | '.join(f'{found[key] or 0:.3f}' for key in names)} |" for name, found in rows),
    ]
    card.write_text(words + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
