"""ONNX Runtime's CUDA provider on a GPU host: AP and people beside its CPU provider, and latency.

python benchmarks/gpu_onnxruntime.py    # needs onnxruntime-gpu; writes benchmarks/results/gpu_onnxruntime.{json,md}
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

from machine import sentence, write_results

from trt_pose import PosePredictor, models, quantize
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.benchmark.machine import machine
from trt_pose.comparison.measure import compare_image
from trt_pose.evaluation import evaluate
from trt_pose.gpu.device import find_gpu
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.quantization import QuantizeOptions

BATCHES = (1, 8, 32)
LIMITS = {"confidence_threshold": 0.01, "max_predictions_per_image": 100, "num_pre_nms_predictions": 300}
CONFIDENCE = 0.25


def make_files(name: str, folder: Path, images: Path) -> dict[str, Path]:
    """The model in FP32, FP16, INT8 with FP16, and with the node of the TensorRT plugin; by name, with any batch."""
    files = {kind: folder / f"{name}_{kind}.onnx" for kind in ("fp32", "fp16", "int8+fp16", "plugin")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = models.get(name)
        network.export(files["fp32"], batch_size="dynamic", **LIMITS)
        network.export(files["plugin"], batch_size="dynamic", engine="tensorrt", **LIMITS)
        for precision in ("fp16", "int8+fp16"):
            quantize(files["fp32"], files[precision], str(images), QuantizeOptions(precision=precision))
    return files


def judge(file: Path, truth: Path, images: Path, provider: str) -> dict[str, Any]:
    """AP by both providers, and how far the people of one are from those of the other."""
    row: dict[str, Any] = {}
    for name in ("cpu", provider):
        row[f"AP {name}"] = evaluate(file, truth, images, providers=[name]).metrics["AP"]
    with (
        PosePredictor(file, conf=CONFIDENCE, providers=["cpu"]) as first,
        PosePredictor(file, conf=CONFIDENCE, providers=[provider]) as second,
    ):
        pairs = [
            compare_image(one.prediction, other.prediction)
            for one, other in zip(first.stream(images), second.stream(images), strict=True)
        ]
    found = sum(pair.first for pair in pairs)
    both = sum(pair.matched for pair in pairs)
    row |= {"people": found, "missed": found - both, "extra": sum(pair.second for pair in pairs) - both}
    matched = [pair for pair in pairs if pair.matched]
    row["px mean"] = sum(pair.px_mean * pair.matched for pair in matched) / max(both, 1)
    row["px max"] = max((pair.px_max for pair in matched), default=0.0)
    return row


def time_files(files: dict[str, Path], provider: str, duration_s: float) -> list[dict[str, Any]]:
    """Median latency of each file for each batch, copies included, ms, and images per second."""
    rows = []
    for batch in BATCHES:
        options = BenchOptions(duration_s=duration_s, batch=batch, provider=provider)
        for precision, report in zip(files, bench(list(files.values()), options).files, strict=True):
            times = {name: figures.median for name, figures in report.times.items()}
            rows.append({"precision": precision, "batch": batch, **times, "images_per_s": report.queries_per_s * batch})
    return rows


def describe(record: dict[str, Any]) -> str:
    where, provider = record["machine"], record["provider"].upper()
    lines = [
        f"# ONNX Runtime's {provider} provider",
        "",
        f"{record['gpu']}. {sentence(where)} Written by benchmarks/gpu_onnxruntime.py.",
        "",
        "The demonstration model on 60 drawn pictures that it never saw. People have scores above 0.25.",
        "",
        f"| file | AP, CPU | AP, {provider} | people | missed | extra | joints apart, mean | at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record["demo"].items():
        values = (row["AP cpu"], row[f"AP {record['provider']}"])
        lines.append(
            f"| {name} | {values[0]:.4f} | {values[1]:.4f} | {row['people']} | {row['missed']} | {row['extra']}"
            f" | {row['px mean']:.3f} px | {row['px max']:.2f} px |"
        )
    lines += ["", "Untrained YOLO-NAS-Pose at 640 x 640, copies included, median of a run in turns.", ""]
    lines += ["| model | file | batch | latency | images/s |", "|---|---|---|---|---|"]
    for name, rows in record["sizes"].items():
        for row in rows:
            figures = f"{row['latency_ms']:.2f} ms | {row['images_per_s']:.0f}"
            lines.append(f"| {name} | {row['precision']} | {row['batch']} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--sizes", nargs="*", default=["yolo_nas_pose_s"])
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a measurement")
    given = parser.parse_args()
    where = machine(("onnxruntime-gpu", "onnx", "numpy", "torch"))
    record: dict[str, Any] = {"provider": given.provider, "machine": where}
    gpu = find_gpu()
    record["gpu"] = gpu["name"] if gpu else "No GPU"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = folder / "calibration"
        write_coco(SyntheticPeople(32, seed=3), images)
        truth = write_coco(SyntheticPeople(60, seed=1), folder / "held_out")
        files = make_files("demo", folder, images)
        record["demo"] = {name: judge(file, truth, folder / "held_out", given.provider) for name, file in files.items()}
        record["sizes"] = {}
        for name in given.sizes:
            files = make_files(name, folder, images)
            record["sizes"][name] = time_files(files, given.provider, given.seconds)
            for file in files.values():
                file.unlink()
    write_results("gpu_onnxruntime", record, describe(record))
    print(describe(record))


if __name__ == "__main__":
    main()
