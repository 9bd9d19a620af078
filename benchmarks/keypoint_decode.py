"""The kernel that decodes the heatmaps of Keypoint R-CNN, and torchvision's function, on a GPU.

python benchmarks/keypoint_decode.py    # writes benchmarks/results/keypoint_decode.{json,md}
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu import Bench
from machine import sentence, write_results

from trt_pose.benchmark.machine import machine
from trt_pose.gpu.device import Device
from trt_pose.gpu.kernels import Kernel
from trt_pose.operators.keypoint_decode import KeypointDecode, kernel_source

JOINTS, SIZE = 17, 56  # of the network
CASES = {"1 person of 200 x 400 px": (1, 200, 400), "20 of them": (20, 200, 400), "100 of 60 x 150 px": (100, 60, 150)}


def make(people: int, width: int, height: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    corner = rng.uniform(0, 400, (people, 2))
    boxes = np.hstack([corner, corner + np.array([width - 0.5, height - 0.5])]).astype(np.float32)
    return rng.normal(0, 1, (people, JOINTS, SIZE, SIZE)).astype(np.float32), boxes


def torchvision_us(heatmaps: Any, boxes: Any, rounds: int = 10) -> float | None:
    """Median time of torchvision's function on the GPU; None without torchvision."""
    try:
        from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
    except ImportError:
        return None
    maps, corners = torch.from_numpy(heatmaps).cuda(), torch.from_numpy(boxes).cuda()
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        heatmaps_to_keypoints(maps, corners)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(times[2:])


def main() -> None:
    rows, lines = {}, []
    operator, device = KeypointDecode(Kernel(kernel_source(), "keypoint_decode"), {}), Device()
    with device.current("timing a kernel"):
        timer = Bench(device)
        for name, (people, width, height) in CASES.items():
            heatmaps, boxes = make(people, width, height)
            addresses = [timer.upload(array) for array in (heatmaps, boxes, np.zeros((people, JOINTS, 3), np.float32))]
            shapes = [list(heatmaps.shape), list(boxes.shape)]
            launch = partial(operator.launch, shapes, addresses[:2], addresses[2:])
            rows[name] = [timer.kernel_us(launch)]
        del timer
    gpu = device.gpu["name"]
    device.close()
    for name, case in CASES.items():
        rows[name].append(torchvision_us(*make(*case)))
        ours, theirs = rows[name]
        shown = "not installed" if theirs is None else f"{theirs:.0f} us"
        lines.append(f"| {name} | {ours:.1f} us | {shown} |")
    where = machine(("torch", "torchvision", "numpy", "cuda-core"))
    text = f"""# Decoding the heatmaps of Keypoint R-CNN

{gpu}. {sentence(where)} Written by benchmarks/keypoint_decode.py: the kernel in a CUDA graph of a hundred launches,
torchvision's function by itself; medians.

| | the kernel | torchvision |
|---|---|---|
{chr(10).join(lines)}
"""
    write_results("keypoint_decode", {"machine": where, "gpu": gpu, "us": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
