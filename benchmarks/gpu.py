"""Everything that is measured on a GPU, in one run: kernels, runner, latency and accuracy of engines.

    python benchmarks/gpu.py             # on a GPU host; writes benchmarks/results/gpu_NAME.{json,md}
    python benchmarks/gpu.py --quick     # N only, one second per engine
    python benchmarks/gpu.py --kernels   # the kernels alone; TensorRT is not needed

``make test-gpu`` runs it after the tests. Kernels are timed as CUDA graphs of a hundred launches, by events.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trt_pose import models
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.benchmark.machine import machine
from trt_pose.benchmark.trtexec import find_trtexec
from trt_pose.builder.build import build_engine
from trt_pose.builder.options import BuildOptions
from trt_pose.builder.prepare import QuantizeRequest
from trt_pose.errors import MissingDependencyError, PoseError
from trt_pose.evaluation import evaluate
from trt_pose.gpu.device import Device, Graph, address_of, copy
from trt_pose.gpu.frames import (
    BLOCK_THREADS,
    FRAME,
    PackParams,
    fill_frames,
    kernel_source as frames_source,
    letterbox_grid,
    letterbox_params,
)  # fmt: skip
from trt_pose.gpu.kernels import Kernel
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.operators.nms import BLOCK_THREADS as NMS_THREADS, KernelParams, kernel_source as nms_source
from trt_pose.runtime.runner import time_query
from trt_pose.runtime.trt import TrtRunner
from trt_pose.spec import InputSpec

RESULTS = Path(__file__).parent / "results"
LAUNCHES, REPEATS = 100, 30
ANCHORS, CANDIDATES, LIMIT, JOINTS = 8400, 1000, 100, 17
SIZES = ("yolo_nas_pose_n", "yolo_nas_pose_s", "yolo_nas_pose_m", "yolo_nas_pose_l")
PRECISIONS = ("fp32", "fp16", "int8")
# What a figure should be at most, or at least.
GOALS = {
    "NMS, batch 1, us": 15.0, "NMS, batch 32, us": 30.0, "letterbox 1080p, us": 30.0, "packing, us": 10.0,
    "runner / (compute + copies)": 1.03, "throughput / trtexec's": 0.97,
}  # fmt: skip
AT_LEAST = {"throughput / trtexec's"}


class Bench:
    """Times work on a stream of one GPU."""

    def __init__(self, device: Device) -> None:
        self.device, self.kept = device, []  # type: ignore[var-annotated]
        self.stream = device.stream()
        self.marks = device.event(timed=True), device.event(timed=True)

    def upload(self, array: np.ndarray[Any, Any]) -> int:
        """Copies an array to the GPU; returns its address."""
        memory, pinned = self.device.memory(array.nbytes), self.device.pinned(array.nbytes)
        pinned.view(array.shape, array.dtype)[...] = array
        copy(pinned.buffer, memory, array.nbytes, self.stream)
        self.stream.sync()
        self.kept += [memory, pinned]
        return address_of(memory)

    def kernel_us(self, launch: Callable[[int], None]) -> float:
        """Median time of a launch, us."""
        launch(address_of(self.stream))  # compiles it
        self.stream.sync()

        def many() -> bool:
            for _ in range(LAUNCHES):
                launch(address_of(self.stream))
            return True

        graph = Graph.capture(self.stream, many)
        assert graph is not None, "the kernels were not captured"
        times = []
        for _ in range(REPEATS):
            self.stream.record(self.marks[0])
            graph.launch(self.stream)
            self.stream.record(self.marks[1])
            self.stream.sync()
            times.append(float(self.marks[1] - self.marks[0]) * 1e3 / LAUNCHES)
        return statistics.median(times)


def nms_us(timer: Bench, batch: int) -> float:
    """PoseNMS on 8,400 anchors, of which a thousand are above the threshold, around twelve people."""
    rng = np.random.default_rng(7)
    center = rng.uniform(0, 640, (batch, 12, 2)).repeat(ANCHORS // 12, axis=1) + rng.normal(0, 6, (batch, ANCHORS, 2))
    half = rng.uniform(30, 60, (batch, ANCHORS, 2))
    boxes = np.concatenate([center - half, center + half], axis=2).astype(np.float32)
    scores = rng.uniform(0, 0.25, (batch, ANCHORS, 1)).astype(np.float32)
    scores[:, rng.permutation(ANCHORS)[:CANDIDATES]] += 0.5
    joints = rng.uniform(0, 640, (batch, ANCHORS, JOINTS, 3)).astype(np.float32)
    outputs = [(batch, 1), (batch, LIMIT, 4), (batch, LIMIT), (batch, LIMIT, JOINTS, 3)]
    addresses = [timer.upload(array) for array in (boxes, scores, joints)]
    addresses += [timer.upload(np.zeros(shape, np.float32)) for shape in outputs]
    params = KernelParams(*addresses, None, ANCHORS, 1, JOINTS, CANDIDATES, LIMIT, 0.25, 0.7)
    kernel = Kernel(nms_source(), "pose_nms")
    return timer.kernel_us(lambda stream: kernel.launch((batch, 1), NMS_THREADS, params, stream))


def letterbox_us(timer: Bench) -> float:
    """One full HD image into 640 x 640."""
    spec, frames = InputSpec(), np.zeros(1, FRAME)
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    fill_frames(frames, [image.shape], [timer.upload(image)], spec)
    target = timer.upload(np.zeros((3, spec.height, spec.width), np.uint8))
    params = letterbox_params(timer.upload(frames.view(np.uint8)), target, spec)
    kernel = Kernel(frames_source(), "letterbox")
    return timer.kernel_us(lambda stream: kernel.launch(letterbox_grid(1, spec), BLOCK_THREADS, params, stream))


def pack_us(timer: Bench) -> float:
    """Twenty people of one image."""
    frames = np.zeros(1, FRAME)
    frames["place"] = (1, 1, 0, 0)
    arrays = [
        np.full((1, 1), 20, np.int32), np.zeros((1, LIMIT, 4), np.float32), np.ones((1, LIMIT), np.float32),
        np.zeros((1, LIMIT, JOINTS, 3), np.float32),
    ]  # fmt: skip
    counts, boxes, scores, joints = (timer.upload(array) for array in arrays)
    kept, rows = (timer.upload(np.zeros(size, np.float32)) for size in (1, LIMIT * 56))
    place = timer.upload(frames.view(np.uint8))
    params = PackParams(counts, boxes, scores, joints, None, place, kept, rows, 1, LIMIT, JOINTS, 0.1)
    kernel = Kernel(frames_source(), "pack_rows")
    return timer.kernel_us(lambda stream: kernel.launch((1, 1), BLOCK_THREADS, params, stream))


def time_kernels() -> dict[str, float]:
    device = Device()
    with device.current("timing kernels"):
        timer = Bench(device)
        found = {f"NMS, batch {batch}, us": nms_us(timer, batch) for batch in (1, 32)}
        found["letterbox 1080p, us"] = letterbox_us(timer)
        found["packing, us"] = pack_us(timer)
        del timer
    device.close()
    return found


def time_runner(engine: Path, rounds: int = 200) -> float:
    """Host time of ``run`` over the GPU's time of copies and compute in the same rounds: the median of the ratios."""
    with TrtRunner(engine, spin_wait=True) as runner:
        info = runner.inputs[runner.batch_name]
        shape = tuple(1 if side is None else side for side in info.shape)
        feeds = {runner.batch_name: np.zeros(shape, info.dtype)}
        ratios = []
        for number in range(rounds + 20):
            start = time.perf_counter()
            runner.run(feeds)
            taken = (time.perf_counter() - start) * 1e3
            query = time_query(runner, feeds)
            if number >= 20:
                ratios.append(taken / query.latency_ms)
    return statistics.median(ratios)


def make_engine(name: str, precision: str, folder: Path, images: Path) -> Path:
    """An engine of batch 1, of seeded weights for the published sizes and of its own for the demo model."""
    onnx, engine = folder / f"{name}.onnx", folder / f"{name}_{precision}.engine"
    if not onnx.exists():
        limits = {"confidence_threshold": 0.01, "max_predictions_per_image": 100, "num_pre_nms_predictions": 300}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models.get(name).export(onnx, engine="tensorrt", verification=False, **limits)
    request = QuantizeRequest(str(images)) if precision == "int8" else QuantizeRequest()
    build_engine(onnx, engine, None if precision == "fp32" else precision, request, BuildOptions())
    return engine


def time_engines(folder: Path, images: Path, sizes: tuple[str, ...], duration_s: float) -> list[dict[str, Any]]:
    rows = []
    for name in sizes:
        for precision in PRECISIONS:
            engine = make_engine(name, precision, folder, images)
            options = BenchOptions(duration_s=duration_s, images=str(images))
            try:
                find_trtexec(engine)
                beside = True
            except MissingDependencyError:
                beside = False
            (found,) = bench([engine], options, trtexec=beside).files
            row = {name: figures.median for name, figures in found.times.items()}
            row |= {"model": name, "precision": precision, "queries_per_s": found.queries_per_s}
            if found.beside:
                row["trtexec_queries_per_s"] = float(found.beside["Throughput"].split()[0])
            rows.append(row)
    return rows


def measure_accuracy(folder: Path, images: Path) -> dict[str, float]:
    """AP of the demo model's engines on synthetic people that it never saw, and of the ONNX file."""
    truth = write_coco(SyntheticPeople(60, seed=1), folder / "held_out")
    engines = {precision: make_engine("demo", precision, folder, images) for precision in PRECISIONS}
    found = {precision: evaluate(engine, truth, folder / "held_out") for precision, engine in engines.items()}
    found["ONNX Runtime"] = evaluate(folder / "demo.onnx", truth, folder / "held_out", providers=["cpu"])
    return {name: float(item.metrics["AP"] or 0) for name, item in found.items()}


def measure(sizes: tuple[str, ...], duration_s: float) -> dict[str, Any]:
    """Everything; without ``sizes`` the kernels alone."""
    figures = time_kernels()
    if not sizes:
        return {"machine": machine(), "figures": figures, "engines": [], "accuracy": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_coco(SyntheticPeople(32, seed=3), folder / "images")
        engines = time_engines(folder, folder / "images", sizes, duration_s)
        figures["runner / (compute + copies)"] = time_runner(folder / f"{sizes[0]}_fp16.engine")
        beside = [row for row in engines if "trtexec_queries_per_s" in row]
        shares = [row["queries_per_s"] / row["trtexec_queries_per_s"] for row in beside]
        if shares:
            figures["throughput / trtexec's"] = min(shares)
        accuracy = measure_accuracy(folder, folder / "images")
    return {"machine": machine(), "figures": figures, "engines": engines, "accuracy": accuracy}


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    where = "; ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = ["# On a GPU", "", f"Written by `benchmarks/gpu.py`. {where}.", ""]
    lines += ["| | measured | goal | |", "|---|---|---|---|"]
    for name, goal in GOALS.items():
        value = found["figures"].get(name)
        if value is None:
            lines.append(f"| {name} | not measured in this run | {goal:g} | |")
            continue
        met = value >= goal if name in AT_LEAST else value <= goal
        sign = "at least" if name in AT_LEAST else "at most"
        lines.append(f"| {name} | {value:.3g} | {sign} {goal:g} | {'met' if met else 'missed'} |")
    if not found["engines"]:
        return "\n".join(lines) + "\n"
    lines += ["", "Latency at batch 1, median, ms; copies are included.", ""]
    lines += ["| model | precision | latency | compute | queries/s | trtexec's |", "|---|---|---|---|---|---|"]
    for row in found["engines"]:
        beside = f"{row['trtexec_queries_per_s']:.4g}" if "trtexec_queries_per_s" in row else "-"
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['latency_ms']:.3f} | {row['compute_ms']:.3f}"
            f" | {row['queries_per_s']:.4g} | {beside} |"
        )
    lines += ["", "AP of the demo model on 60 synthetic images that it never saw.", "", "| | AP |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in found["accuracy"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="N only, one second per engine")
    parser.add_argument("--kernels", action="store_true", help="the kernels alone, without TensorRT")
    options = parser.parse_args()
    try:
        gpu = Device().gpu["name"]
    except PoseError as error:
        sys.exit(f"benchmarks/gpu.py: {error}")
    sizes = () if options.kernels else SIZES[:1] if options.quick else SIZES
    found = measure(sizes, 1.0 if options.quick else 3.0)
    name = re.sub(r"\W+", "_", gpu).strip("_").lower()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"gpu_{name}.json").write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    (RESULTS / f"gpu_{name}.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
