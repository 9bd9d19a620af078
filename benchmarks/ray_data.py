"""Ray Data beside PosePredictor.stream on the same pictures, and where the time of a picture goes.

make ray && python benchmarks/ray_data.py    # writes benchmarks/results/ray_data.{json,md}
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
from machine import sentence, write_results

from trt_pose import PosePredictor, models
from trt_pose.benchmark.machine import machine
from trt_pose.documents import to_json
from trt_pose.images.pixels import decode, example, letterbox
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco

HERE = Path(__file__).parent
PYTHON = HERE.parent / "build" / "ray" / "bin" / "python"
ROUNDS = 3


def run(how: str, model: Path, images: Path, folder: Path, *more: str) -> dict[str, Any]:
    """One run in the environment of Ray."""
    output = folder / "found.json"
    command = [PYTHON, HERE / "ray_job.py", how, model, images, output, *more]
    subprocess.run(command, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def agree(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two runs have each picture once, with the same people."""

    def people(found: dict[str, Any]) -> list[Any]:
        return sorted((row["path"], row["boxes"], row["joints"]) for row in found["rows"])

    return people(first) == people(second)


def time_ms(work: Any, rounds: int = 30) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def measure_stages(model: Path) -> dict[str, float]:
    """Time of each step of a JPEG of 1920 x 1080 in one thread, ms; the network is not among them."""
    cv2.setNumThreads(1)
    picture = cv2.resize(example(), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    image = decode(data)
    with PosePredictor(model, providers=["cpu"]) as predictor:
        spec, result = predictor.spec.input, predictor.predict(image)
    return {
        "decode": time_ms(lambda: decode(data)),
        "letterbox": time_ms(lambda: letterbox(image, spec)),
        "write": time_ms(lambda: to_json(result.to_dict(), None)),
        "bytes": float(len(data)),
    }


def answer(holds: bool) -> str:
    return "yes" if holds else "NO"


def describe(record: dict[str, Any]) -> str:
    count, stages, times = record["count"], record["stages"], record["times"]
    rows = [f"| {name} | {seconds:.1f} s | {1e3 * seconds / count:.1f} ms |" for name, seconds in times.items()]
    killed = record["killed"]
    return f"""# Ray Data

{sentence(record["machine"])} Ray {record["ray"]}.
Written by benchmarks/ray_data.py: {count} drawn pictures of 320 x 320 and one damaged file, the demonstration model in
ONNX Runtime, {ROUNDS} rounds in turns, medians. Starting Ray takes {record["start_s"]:.1f} s more.

| | time | for each picture |
|---|---|---|
{chr(10).join(rows)}

All runs give each picture once, with the same people, and a row for the damaged file: {answer(record["agree"])}.
With one of two actors killed while it worked: {killed["rows"]} rows, {killed["paths"]} different pictures, the same
people: {answer(killed["agree"])}, in {killed["seconds"]:.1f} s.

A JPEG of 1920 x 1080 ({stages["bytes"] / 1e3:.0f} kB), in one thread:

| step | time |
|---|---|
| decode | {stages["decode"]:.2f} ms |
| letterbox | {stages["letterbox"]:.2f} ms |
| write the record | {stages["write"]:.2f} ms |
"""


def workers_s(model: Path, images: Path, folder: Path) -> float:
    """Time of the command with two processes of one thread."""
    command = [sys.executable, "-m", "trt_pose.cli", "predict", model, images, "--workers", "2", "--provider", "cpu"]
    lines = folder / "lines.jsonl"
    begun = time.perf_counter()
    subprocess.run([*command, "--jsonl", lines, "--overwrite"], capture_output=True, check=False)  # 1: the damaged file
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="number of pictures")
    count = parser.parse_args().count
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images, model = folder / "images", folder / "demo.onnx"
        write_coco(SyntheticPeople(count, seed=5), images).unlink()
        (images / "damaged.png").write_bytes((images / "000001.png").read_bytes()[:2000])
        models.get("demo").export(model, max_predictions_per_image=50)
        found: list[dict[str, Any]] = []
        for _ in range(ROUNDS):
            for name, how in (("stream, one thread", "stream"), ("Ray Data, two actors", "ray")):
                found.append(run(how, model, images, folder))
                times.setdefault(name, []).append(found[-1]["seconds"])
            times.setdefault("the command with --workers 2", []).append(workers_s(model, images, folder))
        killed = run("ray", model, images, folder, "--kill")
        stages = measure_stages(model)
    code = "import ray; print(ray.__version__)"
    version = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    record = {
        "machine": machine(("onnxruntime", "opencv-python-headless", "numpy")),
        "ray": version.stdout.strip(),
        "count": count,
        "times": {name: statistics.median(values) for name, values in times.items()},
        "start_s": statistics.median(item["start_s"] for item in found if item["start_s"]),
        "agree": all(agree(found[0], item) for item in found),
        "killed": {
            "rows": len(killed["rows"]),
            "paths": len({row["path"] for row in killed["rows"]}),
            "agree": agree(found[0], killed),
            "seconds": killed["seconds"],
        },
        "stages": stages,
    }
    write_results("ray_data", record, describe(record))
    print(describe(record))


if __name__ == "__main__":
    main()
