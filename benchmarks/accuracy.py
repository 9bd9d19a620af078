"""AP of the demonstration model in every form it can have here: torch, ONNX, FP16, INT8 by each method, fine-tuned.

python benchmarks/accuracy.py [--images 500] [--qat-epochs 2]     # writes benchmarks/results/accuracy.{md,json}
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import sentence

from trt_pose import models
from trt_pose.benchmark.machine import machine
from trt_pose.choices import CalibrationMethod, Precision
from trt_pose.evaluation import CANDIDATES, CONFIDENCE, IOU, LIMIT, evaluate_model, evaluate_predictor
from trt_pose.images.annotations import Annotations
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.predictor import PosePredictor
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, quantize
from trt_pose.training.train import QAT, TrainData, train_quantized

RESULTS = Path(__file__).parent / "results"
CALIBRATED = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--qat-epochs", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Annotations.read(
            write_coco(SyntheticPeople(chosen.images, seed=1), folder / "held_out"), folder / "held_out"
        )
        write_coco(SyntheticPeople(CALIBRATED, seed=3), folder / "calibration")
        model = models.get("demo")
        rows = [{"form": "torch, FP32", **evaluate_model(model, data).metrics}]
        source = folder / "fp32.onnx"
        model.export(
            source, confidence_threshold=CONFIDENCE, nms_threshold=IOU, num_pre_nms_predictions=CANDIDATES,
            max_predictions_per_image=LIMIT, batch_size="dynamic",
        )  # fmt: skip
        rows.append(measure("ONNX, FP32", source, data))
        for form, path in quantized(source, folder):
            rows.append(measure(form, path, data))
        if chosen.qat_epochs:
            tuned = fine_tune(source, folder, chosen.qat_epochs)
            form = f"INT8, fine-tuned {chosen.qat_epochs} epochs of 1,024 pictures"
            rows.append(measure(form, tuned, data))
    write(rows, chosen.images)


def quantized(source: Path, folder: Path) -> list[tuple[str, Path]]:
    """FP16, INT8 by each method, and INT8 with FP16 beside it."""
    made = []
    for form, precision, method in (
        ("FP16", Precision.FP16, CalibrationMethod.ENTROPY),
        *((f"INT8, {method}", Precision.INT8, method) for method in CalibrationMethod),
        ("INT8 and FP16, entropy", Precision.INT8_FP16, CalibrationMethod.ENTROPY),
    ):
        path = folder / f"{len(made)}.onnx"
        calibration = CalibrationOptions(method, batches=None)
        images = None if precision is Precision.FP16 else sorted(map(str, (folder / "calibration").glob("*.png")))
        quantize(source, path, images, QuantizeOptions(precision, calibration))
        made.append((form, path))
    return made


def fine_tune(source: Path, folder: Path, epochs: int) -> Path:
    """The best of the epochs, by other pictures than those the table is of."""
    options = replace(QAT, epochs=epochs, batch=16, warmup_steps=10, ema_decay=0.98, workers=1, device="cpu", seed=9)
    learnt, measured = TrainData(synthetic=1024, seed=9), TrainData(synthetic=100, seed=2)
    return train_quantized(source, learnt, folder / "qat", options, validation=measured)[0]


def measure(form: str, path: Path, data: Annotations) -> dict[str, Any]:
    # ONNX Runtime's own CPU provider computes what the graph says; the fast one rounds otherwise.
    with PosePredictor(path, providers="cpu") as predictor:
        return {"form": form, **evaluate_predictor(predictor, form, data, batch_size=8).metrics}


def write(rows: list[dict[str, Any]], images: int) -> None:
    where = machine(("torch", "onnx", "onnxruntime", "numpy", "faster-coco-eval"))
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR")
    base = rows[0]["AP"]
    lines = [
        "# Accuracy of the demonstration model",
        "",
        f"Written by `benchmarks/accuracy.py` on {sentence(where)}",
        f"{images} held-out synthetic pictures (sparse scenes, seed 1), scores above {CONFIDENCE:g}; files run by ONNX"
        f" Runtime's CPU provider. INT8 is calibrated on {CALIBRATED} other pictures. This says what each form loses"
        " against FP32; it says nothing about photographs.",
        "",
        f"| form | {' | '.join(names)} | AP lost |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    lines += [
        f"| {row['form']} | {' | '.join(f'{row[name] or 0:.4f}' for name in names)} | {base - row['AP']:.4f} |"
        for row in rows
    ]
    (RESULTS / "accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (RESULTS / "accuracy.json").write_text(
        json.dumps({"machine": where, "images": images, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
