"""From files to poses: images per second of a folder of JPEGs of 1920 x 1080, before and after decoding ahead.

    python benchmarks/stream.py --images DIR [--before COMMIT]     # writes benchmarks/results/stream.{md,json}

"Before" is the package at an earlier commit, from the history of this repository, in the same environment. Each way is
a process of its own, which opens the demonstration model, streams the folder once to warm up and then measures; the
ways take turns. The photographs are scaled to 1920 x 1080 and saved with quality 90.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

from machine import sentence, write_results

ROOT = Path(__file__).resolve().parent.parent
COUNT, ROUNDS = 48, 3
WAYS = {
    "before, FP32": ("before", "fp32.onnx", 1),
    "FP32": ("after", "fp32.onnx", 1),
    "FP32, 2 processes": ("after", "fp32.onnx", 2),
    "INT8 in OpenVINO": ("after", "int8.onnx", 1),
    "INT8 in OpenVINO, 2 processes": ("after", "int8.onnx", 2),
}


def child(model: str, folder: str, workers: int) -> None:
    """Prints images per second and processor time per image, ms."""
    warnings.simplefilter("ignore")
    from trt_pose import PosePredictor

    if workers > 1:
        from trt_pose.workers import Job, stream

        paths = sorted(map(str, Path(folder).iterdir()))
        job = Job(model, paths * 3, streaming={"on_error": "yield"})
        results = stream(job, workers)
        for _ in range(len(paths)):  # each process has opened the model and warmed up
            next(results)
        start = time.perf_counter()
        done = sum(1 for _ in results)
        print(done / (time.perf_counter() - start), 0.0)
        return
    with PosePredictor(model) as predictor:
        list(predictor.stream(folder))
        start, used = time.perf_counter(), time.process_time()
        done = sum(1 for _ in predictor.stream(folder)) + sum(1 for _ in predictor.stream(folder))
        print(done / (time.perf_counter() - start), (time.process_time() - used) / done * 1e3)


def run(code: Path, model: Path, folder: Path, workers: int) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, __file__, "--child", str(model), str(folder), str(workers)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [float(word) for word in done.stdout.split()]


def make_photographs(source: Path, folder: Path) -> None:
    import PIL.Image

    folder.mkdir()
    paths = sorted(source.rglob("*.jpg"))
    for index in range(COUNT):
        picture = PIL.Image.open(paths[index % len(paths)]).convert("RGB").resize((1920, 1080))
        picture.save(folder / f"{index:03}.jpg", quality=90)


def make_models(folder: Path) -> None:
    from trt_pose import models, quantize
    from trt_pose.images.synthetic import SyntheticPeople

    models.get("demo").export(folder / "fp32.onnx", confidence_threshold=0.3, verification=False)
    people = [sample.image.transpose(2, 0, 1)[None] for sample in SyntheticPeople(32, seed=3)]
    quantize(folder / "fp32.onnx", folder / "int8.onnx", people)


def compare_reduced(folder: Path) -> tuple[float, float, float]:
    """Mean, 99th percentile and maximum of the difference that decoding at a reduced size makes to resized pixels."""
    import cv2
    import numpy as np
    import PIL.Image

    differences = []
    for path in sorted(folder.iterdir()):
        small = PIL.Image.open(path)
        small.draft("RGB", (640, 360))
        one, other = (
            cv2.resize(np.array(picture), (320, 180)).astype(int) for picture in (small, PIL.Image.open(path))
        )
        differences.append(np.abs(one - other))
    every = np.stack(differences)
    return float(every.mean()), float(np.percentile(every, 99)), float(every.max())


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--before", default="64ef109", help="commit to compare with")
    chosen = parser.parse_args()
    from trt_pose.benchmark.machine import machine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive_command = [shutil.which("git") or "git", "archive", chosen.before, "trt_pose"]
        packed = subprocess.run(archive_command, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder / "before", filter="data")
        make_photographs(chosen.images, folder / "photographs")
        make_models(folder)
        reduced = compare_reduced(folder / "photographs")
        code = {"before": folder / "before", "after": ROOT}
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, (side, model, workers) in WAYS.items():
                found[way].append(run(code[side], folder / model, folder / "photographs", workers))
                print(way, found[way][-1], flush=True)
    first = [row[0] for row in found["before, FP32"]]
    rows = {}
    for way, values in found.items():
        ratios = [value[0] / base for value, base in zip(values, first, strict=True)]
        rows[way] = {
            "images_per_s": statistics.median(value[0] for value in values),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "cpu_ms": statistics.median(value[1] for value in values) or None,
        }
    where = machine(("onnxruntime", "openvino", "pillow", "opencv-python-headless", "numpy"))
    lines = [
        "# From a folder of JPEGs to poses, on the CPU",
        "",
        f"{sentence(where)} Written by benchmarks/stream.py: {COUNT} JPEGs of 1920 x 1080, the demonstration model at"
        f" 320 x 320, {ROUNDS} rounds in turns, medians; before is commit {chosen.before}.",
        "",
        "| way | images per s | times as many | in each round | processor time per image |",
        "|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        each = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        used = f"{row['cpu_ms']:.0f} ms" if row["cpu_ms"] else ""
        lines.append(f"| {way} | {row['images_per_s']:.1f} | {row['ratio']:.2f} | {each} | {used} |")
    least, middle, most = reduced
    lines += [
        "",
        "JPEGs are decoded whole. libjpeg can decode them at half or a quarter of their size, which is another picture:"
        f" over these photographs the pixels of the network's input differ by {least:.1f} levels in the mean,"
        f" {middle:.0f} at the 99th percentile and {most:.0f} at most; and results hold the whole picture.",
        "",
    ]
    text = "\n".join(lines)
    write_results("stream", {"machine": where, "before": chosen.before, "ways": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
