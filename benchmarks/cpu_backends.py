"""Every precision in ONNX Runtime and in OpenVINO on the CPU: first how exact it is, then how fast.

    python benchmarks/cpu_backends.py [--images 200]    # writes benchmarks/results/cpu_backends.{md,json}

Accuracy: the demonstration model, calibrated on 64 synthetic pictures; AP on others, and the signal to noise of the
network's outputs, before decode and NMS, against FP32 in ONNX Runtime. Speed: YOLO-NAS-Pose-S at 640 x 640, batch 1,
all in one process, taking turns; the ratio is that of neighbouring runs. A pause before each run lets the threads of
the one before come to rest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from machine import sentence, write_results

from trt_pose import models
from trt_pose.benchmark.machine import machine
from trt_pose.choices import Precision
from trt_pose.evaluation import CANDIDATES, CONFIDENCE, IOU, LIMIT, evaluate_predictor
from trt_pose.graphs.file import load
from trt_pose.graphs.surgery import extract_subgraph
from trt_pose.images.annotations import Annotations
from trt_pose.images.pixels import example, letterbox
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.predictor import PosePredictor
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, quantize
from trt_pose.quantization.network import Network
from trt_pose.quantization.snr import signal_to_noise
from trt_pose.runtime import open_runner

ROUNDS = 25
FORMS: dict[str, tuple[Precision, dict[str, str]]] = {
    "FP32, ONNX Runtime": (Precision.FP32, {"providers": "cpu"}),
    "FP32, OpenVINO": (Precision.FP32, {"providers": "openvino"}),
    "FP32 in bf16, OpenVINO": (Precision.FP32, {"providers": "openvino", "precision": "bf16"}),
    "FP16, ONNX Runtime": (Precision.FP16, {"providers": "cpu"}),
    "FP16, OpenVINO": (Precision.FP16, {"providers": "openvino"}),
    "INT8, ONNX Runtime": (Precision.INT8, {"providers": "cpu"}),
    "INT8, OpenVINO": (Precision.INT8, {"providers": "openvino"}),
    "INT8 and FP16, OpenVINO": (Precision.INT8_FP16, {"providers": "openvino"}),
}


def make_files(network: Any, folder: Path, calibration: list[str], **options: Any) -> dict[Precision, Path]:
    """The file of a model in each precision."""
    files = {Precision.FP32: folder / "fp32.onnx"}
    network.export(files[Precision.FP32], verification=False, **options)
    for precision in (Precision.FP16, Precision.INT8, Precision.INT8_FP16):
        files[precision] = folder / f"{precision}.onnx"
        data = calibration if precision.has_int8 else None
        chosen = QuantizeOptions(precision, CalibrationOptions(batches=None))
        quantize(files[Precision.FP32], files[precision], data, chosen)
    return files


def heads(path: Path, border: list[str], pictures: list[np.ndarray], options: dict[str, str]) -> dict[str, np.ndarray]:
    part = extract_subgraph(load(path), border).SerializeToString()
    with open_runner(part, **options) as runner:
        runs = [runner.run({runner.spec.input.name: picture[None]}) for picture in pictures]
    return {name: np.concatenate([run[name].ravel() for run in runs]).astype(np.float64) for name in border}


def measure_accuracy(folder: Path, images: int) -> dict[str, dict[str, Any]]:
    data = Annotations.read(write_coco(SyntheticPeople(images, seed=1), folder / "held_out"), folder / "held_out")
    write_coco(SyntheticPeople(64, seed=3), folder / "calibration")
    calibration = sorted(map(str, (folder / "calibration").rglob("*.png")))
    files = make_files(
        models.get("demo"), folder, calibration, confidence_threshold=CONFIDENCE, nms_threshold=IOU,
        num_pre_nms_predictions=CANDIDATES, max_predictions_per_image=LIMIT, batch_size="dynamic",
    )  # fmt: skip
    border = list(Network(load(files[Precision.FP32])).border)
    pictures = [np.ascontiguousarray(sample.image.transpose(2, 0, 1)) for sample in SyntheticPeople(16, seed=2)]
    reference, rows = None, {}
    for form, (precision, options) in FORMS.items():
        values = heads(files[precision], border, pictures, options)
        reference = values if reference is None else reference
        noise = [signal_to_noise(reference[name], values[name]) for name in border]
        with PosePredictor(files[precision], **options) as predictor:
            ap = evaluate_predictor(predictor, form, data).metrics["AP"]
        rows[form] = {"ap": ap, "noise_db": None if np.isinf(noise).all() else noise}
        print(form, rows[form], flush=True)
    return rows


def measure_speed(folder: Path, calibration: list[str]) -> dict[str, dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.conftest import make_model

    folder.mkdir()
    files = make_files(make_model("yolo_nas_pose_s"), folder, calibration)
    runners = {form: open_runner(files[precision], **options) for form, (precision, options) in FORMS.items()}
    spec = next(iter(runners.values())).spec.input
    pixels = letterbox(example(), spec)[0][None]
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for count in range(ROUNDS + 3):
        for form, runner in runners.items():
            time.sleep(0.02)
            start = time.perf_counter()
            runner.run({spec.name: pixels})
            if count >= 3:
                times[form].append((time.perf_counter() - start) * 1e3)
    first = times[next(iter(FORMS))]
    rows = {}
    for form, values in times.items():
        ratios = [one / other for one, other in zip(first, values, strict=True)]
        rows[form] = {
            "median_ms": statistics.median(values),
            "speedup": statistics.median(ratios),
            "quartiles": statistics.quantiles(ratios, n=4)[::2],
            "runtime": runners[form].runtime,
        }
    return rows


def table(accuracy: dict[str, Any], speed: dict[str, Any], images: int, where: dict[str, Any]) -> str:
    lines = [
        "# Precisions and runtimes on the CPU",
        "",
        f"{sentence(where)} Written by benchmarks/cpu_backends.py.",
        "",
        f"AP and signal to noise: the demonstration model at 320 x 320, AP on {images} synthetic pictures. Speed:"
        f" YOLO-NAS-Pose-S at 640 x 640, batch 1, {ROUNDS} rounds in one process; as many times as fast as FP32 in ONNX"
        " Runtime, and the quartiles.",
        "",
        "| form | AP | signal to noise of the outputs, dB | times as fast | quartiles | median |",
        "|---|---|---|---|---|---|",
    ]
    for form in FORMS:
        noise = accuracy[form]["noise_db"]
        shown = "equal" if noise is None else " / ".join(f"{value:.1f}" for value in noise)
        row = speed[form]
        low, high = row["quartiles"]
        lines.append(
            f"| {form} | {accuracy[form]['ap']:.4f} | {shown} | {row['speedup']:.2f} | {low:.2f} to {high:.2f} |"
            f" {row['median_ms']:.0f} ms |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    images = parser.parse_args().images
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        accuracy = measure_accuracy(folder, images)
        speed = measure_speed(folder / "speed", sorted(map(str, (folder / "calibration").rglob("*.png")))[:16])
    where = machine(("onnx", "onnxruntime", "openvino", "numpy"))
    record = {"machine": where, "images": images, "rounds": ROUNDS, "accuracy": accuracy, "speed": speed}
    text = table(accuracy, speed, images, where)
    write_results("cpu_backends", record, text)
    print(text)


if __name__ == "__main__":
    main()
