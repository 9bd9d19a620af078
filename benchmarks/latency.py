"""The latency of YOLO-NAS-Pose N, S, M, L at 640 x 640, batch 1, as engines in FP16 and INT8, on the GPU that is here.

    python benchmarks/latency.py [--duration 10]     # writes benchmarks/results/latency-GPU.{json,md}

The published figures are 2.35, 3.29, 6.87 and 8.86 ms on a T4 (super-gradients, YOLONAS-POSE.md; precision and
post-processing not stated). The weights are a seed's: the engines are as fast as with any others, but for NMS, whose
candidates are those of the photograph and are in the table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import warnings
from pathlib import Path

from trt_pose import models
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.benchmark.machine import machine
from trt_pose.builder.build import build_engine
from trt_pose.builder.prepare import QuantizeRequest
from trt_pose.images.pixels import example

RESULTS = Path(__file__).parent / "results"
SIZES, PRECISIONS = "nsml", ("fp16", "int8")


def build(size: str, precision: str, folder: Path) -> Path:
    """The engine of one model; INT8 is calibrated on crops of the photograph."""
    onnx, engine = folder / f"{size}.onnx", folder / f"{size}_{precision}.engine"
    if not onnx.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed's weights
            model = models.get(f"yolo_nas_pose_{size}")
        model.export(onnx, engine="tensorrt", confidence_threshold=0.25, max_predictions_per_image=100)
    photograph = example()
    crops = [photograph[y : y + 400, x : x + 400] for y in (0, 50, 100) for x in (0, 50, 100)]
    quantizing = QuantizeRequest(crops) if precision == "int8" else QuantizeRequest()
    build_engine(onnx, engine, precision, quantizing)
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=float, default=10.0, help="seconds per engine")
    parser.add_argument("--trtexec", action="store_true", help="run trtexec on the same engines, too")
    arguments = parser.parse_args()
    gpu = machine()["gpu"]
    if gpu is None:
        sys.exit("benchmarks/latency.py: no GPU here. Run it on a machine with one.")
    with tempfile.TemporaryDirectory() as folder:
        engines = [build(size, precision, Path(folder)) for size in SIZES for precision in PRECISIONS]
        report = bench(engines, BenchOptions(duration_s=arguments.duration), trtexec=arguments.trtexec)
    name = re.sub(r"\W+", "-", gpu["name"].lower()).strip("-")
    (RESULTS / f"latency-{name}.json").write_text(report.to_json() + "\n", encoding="utf-8")
    lines = [
        f"# Latency on {gpu['name']}",
        "",
        f"Written by `benchmarks/latency.py`; {report.headline}. Versions: {json.dumps(report.machine['packages'])}.",
        "GPU compute is the engine with NMS; latency adds the copies of one image in and its padded outputs back.",
        "",
        "| model | precision | detections | GPU compute, ms (median) | latency, ms (median) | p99 | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {item.model} | {item.precision} | {item.detections:.0f} | {item.times['compute_ms'].median:.3f} |"
        f" {item.times['latency_ms'].median:.3f} | {item.times['latency_ms'].percentiles[99.0]:.3f} |"
        f" {item.images_per_s:.0f} |"
        for item in report.files
    ]
    (RESULTS / f"latency-{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
