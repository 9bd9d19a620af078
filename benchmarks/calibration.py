"""INT8 calibration: ours against ONNX Runtime's and ModelOpt's, on the same images: time, peak memory, noise.

    python benchmarks/calibration.py --images DIR [--modelopt PYTHON] [--model yolo_nas_pose_s]

Each route runs in a process of its own and its peak is that process's. ONNX Runtime's calibrators choose thresholds for
our placement of quantizers, so that the calibration alone differs; ModelOpt, in an environment of its own (`PYTHON`
with nvidia-modelopt installed), places its own. The weights are the seeded ones of the tests, untrained: the noise says
how exactly a graph is followed, not how much accuracy a trained model loses.
Results: benchmarks/results/calibration.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from machine import peak_mb, sentence

from trt_pose.benchmark.machine import machine

RESULTS = Path(__file__).parent / "results"
COUNT, MEASURED_ON = 32, 8
PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
ROUTES = (
    "ours entropy", "ours percentile", "ours mse", "ours minmax", "onnxruntime MinMax", "onnxruntime Entropy strided",
    "onnxruntime Entropy", "modelopt entropy",
)  # fmt: skip
# Keeps every activation of every image: 0.46 GB each for S. Run on few images, and said so.
KEEPS_ALL, FEW = "onnxruntime Entropy", 4


def load_images(folder: Path) -> np.ndarray:
    """(COUNT, 3, 640, 640) uint8, letterboxed; mirror images fill up a smaller folder."""
    from trt_pose.quantization import open_batches
    from trt_pose.spec import InputSpec

    pixels = np.concatenate(list(open_batches(folder, InputSpec())))
    while len(pixels) < COUNT:
        pixels = np.concatenate([pixels, pixels[:, :, :, ::-1]])
    return np.ascontiguousarray(pixels[:COUNT])


def thresholds_of_ours(method: str, model: Path, images: np.ndarray) -> dict[str, float]:
    from trt_pose.choices import CalibrationMethod
    from trt_pose.graphs.file import load
    from trt_pose.quantization import CalibrationOptions, calibrate
    from trt_pose.quantization.network import Network

    network = Network(load(model))
    options = CalibrationOptions(CalibrationMethod(method), batches=None)
    return calibrate(network, network.activations(), iter(images[:, None]), options).thresholds


def thresholds_of_onnxruntime(method: str, model: Path, images: np.ndarray) -> dict[str, float]:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from trt_pose.graphs.file import load
    from trt_pose.quantization.network import Network

    class Reader(CalibrationDataReader):
        def __init__(self, part: np.ndarray) -> None:
            self.batches = iter(part[:, None])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    kind, _, strided = method.partition(" ")
    network = Network(load(model))
    tensors = network.activations()
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            str(model),
            op_types_to_calibrate=["Conv", "ConvTranspose", "MaxPool", "Add"],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=getattr(CalibrationMethod, kind),
            extra_options={"symmetric": True},
        )
        for start in range(0, len(images), 1 if strided else len(images)):
            calibrator.collect_data(Reader(images[start : start + (1 if strided else len(images))]))
        ranges = calibrator.compute_data()
    found = {}
    for name in tensors:
        low, high = ranges[name].range_value
        found[name] = float(max(abs(np.min(low)), abs(np.max(high))))
    return found


def run_route(route: str, model: Path, images: np.ndarray, output: Path) -> dict[str, Any]:
    """Calibrates and writes the INT8 file; seconds and peak memory of this process."""
    tool, _, method = route.partition(" ")
    start = time.perf_counter()
    if tool == "modelopt":
        from modelopt.onnx.quantization import quantize

        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data={"input": images},
            calibration_method=method,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(output),
        )
    else:
        found = (thresholds_of_ours if tool == "ours" else thresholds_of_onnxruntime)(method, model, images)
        from trt_pose.graphs.file import load, save
        from trt_pose.quantization.network import Network
        from trt_pose.quantization.qdq import quantize_layers

        network = Network(load(model))
        save(quantize_layers(network, network.layers, found), output)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_mb()}


def run_child(python: str, route: str, model: Path, images: Path, output: Path) -> dict[str, Any]:
    command = [
        python,
        __file__,
        "--route",
        route,
        "--file",
        str(model),
        "--arrays",
        str(images),
        "--output",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason"])[-1][:300]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure_noise(model: Path, quantized: Path, images: np.ndarray) -> dict[str, float]:
    from trt_pose.graphs.file import load
    from trt_pose.quantization.network import Network
    from trt_pose.quantization.snr import Noise

    network = Network(load(model))
    names = ("scores", "boxes", "joints")
    made = load(quantized)
    if not made.metadata_props:  # ModelOpt drops the description
        made.metadata_props.extend(network.proto.metadata_props)
    noise = Noise(network, [images[:MEASURED_ON]]).of(made)
    return dict(zip(names, noise.values(), strict=True))


def export(name: str, path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.conftest import make_model

    make_model(name).export(path, verification=False)


def table(rows: dict[str, dict[str, Any]], record: dict[str, Any]) -> str:
    lines = [
        f"# Calibration of {record['model']} at 640x640, {COUNT} images",
        "",
        f"{sentence(record['machine'])} {record['images']}",
        "",
        "| route | time | peak memory | scores | boxes | joints | remarks |",
        "|---|---|---|---|---|---|---|",
    ]
    for route, row in rows.items():
        if "failed" in row:
            lines.append(f"| {route} | | | | | | failed: {row['failed']} |")
            continue
        noise = " | ".join(f"{row['noise_db'][name]:.1f} dB" for name in ("scores", "boxes", "joints"))
        remark = f"on {FEW} images only: it keeps every activation of every image" if route == KEEPS_ALL else ""
        lines.append(f"| {route} | {row['seconds']:.1f} s | {row['peak_mb']:.0f} MB | {noise} | {remark} |")
    lines += [
        "",
        "Noise: power of the network's raw outputs over that of the INT8 graph's error, before decode and NMS, on the"
        f" first {MEASURED_ON} images. Untrained weights: it ranks how exactly a graph is followed, not accuracy.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="yolo_nas_pose_s")
    parser.add_argument("--modelopt", help="the python of an environment with nvidia-modelopt")
    for hidden in ("--route", "--file", "--arrays", "--output"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.route:
        images = np.load(options.arrays)
        print(json.dumps(run_route(options.route, Path(options.file), images, Path(options.output))))
        return
    if options.images is None:
        parser.error("--images names a folder of photographs")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, images = folder / "model.onnx", load_images(options.images)
        export(options.model, model)
        np.save(folder / "all.npy", images)
        np.save(folder / "few.npy", images[:FEW])
        for route in ROUTES:
            python = options.modelopt if route.startswith("modelopt") else sys.executable
            if python is None:
                continue
            arrays, output = folder / ("few.npy" if route == KEEPS_ALL else "all.npy"), folder / "int8.onnx"
            row = run_child(python, route, model, arrays, output)
            if "failed" not in row:
                row["noise_db"] = measure_noise(model, output, images)
            rows[route] = row
            print(route, row, file=sys.stderr)
    record = {
        "model": options.model,
        "machine": machine(PACKAGES),
        "images": f"{len(list(options.images.iterdir()))} photographs, filled up with their mirror images.",
        "routes": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "calibration.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "calibration.md").write_text(table(rows, record), encoding="utf-8")


if __name__ == "__main__":
    main()
