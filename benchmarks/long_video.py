"""A long video through ``trt-pose predict --track``: memory, completeness, ids.

    python benchmarks/long_video.py                # 20,000 frames; writes benchmarks/results/long_video.{json,md}
    python benchmarks/long_video.py --frames 500   # prints only

The command runs in a process of its own, whose resident memory is read twice a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from machine import sentence, write_results

from trt_pose import models
from trt_pose.benchmark.machine import machine
from trt_pose.images.synthetic_clip import SyntheticClip
from trt_pose.images.synthetic_files import write_clip

FRAMES = 20_000


def memory_mb(process: int) -> float:
    """Resident memory of a process, MB; 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(folder: Path, frames: int) -> dict[str, Any]:
    """Makes the clip, runs the command on it, and counts what it wrote."""
    truth = write_clip(SyntheticClip(frames, size=(240, 320), seed=3), folder / "walk.mp4")
    people = len({note["track_id"] for note in json.loads(truth.read_text(encoding="utf-8"))["annotations"]})
    models.get("demo").export(folder / "demo.onnx", verification=False, confidence_threshold=0.3)
    words = [sys.executable, "-m", "trt_pose.cli", "predict", folder / "demo.onnx", folder / "walk.mp4", "--track",
             "--provider", "cpu", "--jsonl", folder / "out.jsonl", "--save", folder / "drawn.mp4"]  # fmt: skip
    begun, samples = time.perf_counter(), []
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log)
        while child.poll() is None:
            samples.append(memory_mb(child.pid))
            time.sleep(0.5)
    seconds = time.perf_counter() - begun
    lines = (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    with av.open(str(folder / "drawn.mp4")) as container:
        drawn = sum(1 for _ in container.decode(video=0))
    ids = [person["id"] for record in records for person in record["poses"] if person["id"] is not None]
    quarter = len(samples) // 4
    return {
        "frames": frames, "exit code": child.returncode, "JSON lines": len(records),
        "indices in order": [record["index"] for record in records] == list(range(frames)), "frames drawn": drawn,
        "memory after a quarter, MB": round(max(samples[quarter : quarter + 5])),
        "memory at the end, MB": round(max(samples[-6:-1])), "most memory, MB": round(max(samples)),
        "people": people, "ids": len(set(ids)), "frames/s": round(frames / seconds, 1),
    }  # fmt: skip


def report(where: dict[str, Any], found: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = "".join(f"| {name} | {value} |\n" for name, value in found.items())
    return f"# A long video\n\nWritten by `benchmarks/long_video.py`. {sentence(where)}\n\n| | |\n|---|---|\n{rows}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=FRAMES)
    frames = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), frames)
    where = machine(("trt-pose", "numpy", "onnxruntime", "av", "trackers"))
    if frames == FRAMES:
        write_results("long_video", {"machine": where, "found": found}, report(where, found))
    sys.stdout.write(report(where, found))


if __name__ == "__main__":
    main()
