"""FP32 and INT8 files on the CPU: ONNX Runtime's own code, its OpenVINO provider, OpenVINO's own runtime.

    python benchmarks/int8_latency.py --images DIR [--model yolo_nas_pose_s]

All sessions live in one process and take turns on the same photograph; the ratio is that of neighbouring runs. A route
that is not installed, or whose CPU is not this one, is left out and named. Results:
benchmarks/results/int8_latency.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import sentence

from trt_pose.benchmark.machine import machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnx", "onnxruntime", "numpy")
ROUNDS = 20
REFERENCE = "FP32, ONNX Runtime"


def routes(fp32: Path, int8: Path, pixels: np.ndarray) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Callables by name, and why a route is missing."""
    from trt_pose.runtime.ort import OnnxRunner, openvino_devices

    found: dict[str, Callable[[], Any]] = {}
    missing: dict[str, str] = {}
    for name, path in (("FP32", fp32), ("INT8", int8)):
        runner = OnnxRunner(path, providers=["cpu"])
        found[f"{name}, ONNX Runtime"] = lambda runner=runner: runner.run({"input": pixels})
        label = f"{name}, ONNX Runtime's OpenVINO provider"
        if openvino_devices():
            provider = OnnxRunner(path, providers=["openvino"])
            found[label] = lambda runner=provider: runner.run({"input": pixels})
        else:
            missing[label] = "the provider is not installed, or offers no device for this CPU"
        label = f"{name}, OpenVINO's own runtime"
        try:
            import openvino

            model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            found[label] = lambda model=model: model({"input": pixels})
        except ImportError:
            missing[label] = "openvino is not installed"
    return found, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="yolo_nas_pose_s")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.conftest import make_model
    from trt_pose.images.pixels import example, letterbox
    from trt_pose.quantization import quantize

    with tempfile.TemporaryDirectory() as name:
        fp32, int8 = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        spec = make_model(options.model).export(fp32, verification=False).spec
        quantize(fp32, int8, options.images)
        pixels = letterbox(example(), spec.input)[0][None]
        found, missing = routes(fp32, int8, pixels)
        times: dict[str, list[float]] = {route: [] for route in found}
        for count in range(ROUNDS + 3):
            for route, run in found.items():
                start = time.perf_counter()
                run()
                if count >= 3:
                    times[route].append((time.perf_counter() - start) * 1e3)
    rows = {}
    for route, values in times.items():
        ratios = [first / second for first, second in zip(times[REFERENCE], values, strict=True)]
        rows[route] = {
            "median_ms": statistics.median(values),
            "speedup": statistics.median(ratios),
            "speedup_quartiles": statistics.quantiles(ratios, n=4)[::2],
        }
    record = {
        "model": options.model,
        "machine": machine(PACKAGES),
        "rounds": ROUNDS,
        "routes": rows,
        "missing": missing,
    }
    (RESULTS / "int8_latency.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# {options.model} at 640x640, batch 1, FP32 and INT8 on the CPU",
        "",
        f"{sentence(record['machine'])} {ROUNDS} rounds, all in one process, taking turns.",
        "",
        f"| route | median | times as fast as {REFERENCE} | quartiles |",
        "|---|---|---|---|",
    ]
    for route, row in rows.items():
        low, high = row["speedup_quartiles"]
        lines.append(f"| {route} | {row['median_ms']:.0f} ms | {row['speedup']:.2f} | {low:.2f} to {high:.2f} |")
    lines += [f"| {route} | | not measured: {why} | |" for route, why in missing.items()]
    (RESULTS / "int8_latency.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
