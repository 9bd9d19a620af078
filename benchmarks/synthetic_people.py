"""A contact sheet of synthetic people with their annotations, and how fast one core makes them.

python benchmarks/synthetic_people.py     # writes benchmarks/results/synthetic_people.{jpg,md}
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
from machine import sentence

from trt_pose.benchmark.machine import machine
from trt_pose.images import draw
from trt_pose.images.synthetic import SCENES, SyntheticPeople
from trt_pose.skeleton import COCO

RESULTS = Path(__file__).parent / "results"
ROWS, COLUMNS, TIMED = 4, 6, 300


def main() -> None:
    cv2.setNumThreads(1)
    text, samples = [], []
    for name, scene in SCENES.items():
        people = SyntheticPeople(TIMED, (320, 320), seed=1, scene=scene)
        start = time.perf_counter()
        found = sum(len(sample.joints) for sample in people)
        rate = TIMED / (time.perf_counter() - start)
        text.append(
            f"| {name} | {scene.people[0]} to {scene.people[1]} | {scene.heights[0]:g} to {scene.heights[1]:g} |"
        )
        text[-1] += f" {found} | {rate:.0f} |"
        samples += people[: ROWS * COLUMNS // len(SCENES)]
    tiles = []
    for index, sample in enumerate(samples):
        joints = sample.joints.copy()
        joints[..., 2] = joints[..., 2] > 0
        drawn = draw.draw_poses(sample.image, sample.boxes, np.ones(len(joints), np.float32), joints, COCO)
        tiles.append(drawn if index % 2 else sample.image)
    rows = [np.concatenate(tiles[row * COLUMNS : (row + 1) * COLUMNS], axis=1) for row in range(ROWS)]
    sheet = cv2.resize(np.concatenate(rows), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    draw.save(sheet.astype(np.uint8), RESULTS / "synthetic_people.jpg")
    text = [
        "# Synthetic people",
        "",
        f"Written by `benchmarks/synthetic_people.py` on {sentence(machine(('numpy', 'opencv-python-headless')))}",
        f"One core, {TIMED} pictures of 320 x 320 of each scene.",
        "",
        "| scene | people | height, px | annotated | pictures per second |",
        "|---|---|---|---|---|",
        *text,
        "",
        f"Two rows of {' and two of '.join(SCENES)}, every other one with its annotations:",
        "",
        "![synthetic people](synthetic_people.jpg)",
    ]
    (RESULTS / "synthetic_people.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
