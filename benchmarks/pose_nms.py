"""The pose NMS kernel against what PyTorch users write: score filter, torchvision.ops.nms, gather. Needs an NVIDIA GPU.

    python benchmarks/pose_nms.py       # writes benchmarks/results/pose_nms.{json,md}

Both run on the same tensors, in turns, timed by CUDA events; the results are checked to be the same people first.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
CONFIDENCE, IOU, LIMIT = 0.25, 0.7, 100
# Batch, anchors, candidates above the threshold.
CASES = ((1, 8400, 300), (32, 8400, 300), (1, 8400, 3000))


def scene(batch: int, anchors: int, above: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Twelve people an image, candidates jittered around them, `above` of them over the threshold."""
    g = torch.Generator().manual_seed(7)
    center = torch.rand(batch, 12, 2, generator=g) * 640
    place = center[:, torch.arange(anchors) % 12] + torch.randn(batch, anchors, 2, generator=g) * 6
    half = 30 + torch.rand(batch, anchors, 2, generator=g) * 30
    low = torch.rand(batch, anchors, generator=g) * CONFIDENCE
    high = CONFIDENCE + 1e-4 + torch.rand(batch, anchors, generator=g) * 0.7
    chosen = torch.rand(batch, anchors, generator=g).argsort(dim=1) < above
    scores = torch.where(chosen, high, low).unsqueeze(2)
    joints = torch.rand(batch, anchors, 17, 3, generator=g)
    return torch.cat([place - half, place + half], dim=2).cuda(), scores.cuda(), joints.cuda()


def by_torchvision(boxes: torch.Tensor, scores: torch.Tensor, joints: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """What PyTorch post-processing does, image by image."""
    from torchvision.ops import nms

    found = []
    for image in range(len(boxes)):
        passed = scores[image, :, 0] > CONFIDENCE
        b, s, j = boxes[image][passed], scores[image, :, 0][passed], joints[image][passed]
        kept = nms(b, s, IOU)[:LIMIT]
        found.append((b[kept], s[kept], j[kept]))
    return found


class ByKernel:
    """The kernel on fixed buffers."""

    def __init__(self, boxes: torch.Tensor, scores: torch.Tensor, joints: torch.Tensor) -> None:
        from trt_pose.gpu.kernels import Kernel
        from trt_pose.operators.nms import KernelParams, kernel_source

        batch, anchors = boxes.shape[:2]
        self.batch, self.inputs = batch, (boxes, scores, joints)
        self.count = torch.zeros(batch, 1, dtype=torch.int32, device="cuda")
        shapes = ((4,), (), (17, 3))
        self.outputs = [torch.zeros(batch, LIMIT, *shape, device="cuda") for shape in shapes]
        addresses = [array.data_ptr() for array in (*self.inputs, self.count, *self.outputs)]
        self.params = KernelParams(*addresses, None, anchors, 1, 17, min(4096, anchors), LIMIT, CONFIDENCE, IOU)
        self.kernel = Kernel(kernel_source(), "pose_nms")

    def __call__(self) -> None:
        from trt_pose.operators.nms import BLOCK_THREADS

        self.kernel.launch((self.batch, 1), BLOCK_THREADS, self.params, torch.cuda.current_stream().cuda_stream)


def time_us(action: Any) -> float:
    """Microseconds on the GPU's clock, host included: what a caller waits for."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1000


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/pose_nms.py: no GPU here. Run it on a machine with one.")
    rows = []
    for batch, anchors, above in CASES:
        inputs = scene(batch, anchors, above)
        kernel = ByKernel(*inputs)
        kernel()
        want = by_torchvision(*inputs)
        assert kernel.count[:, 0].tolist() == [len(scores) for _, scores, _ in want], "the two find different people"
        times: dict[str, list[float]] = {"kernel": [], "torchvision": []}
        for _ in range(220):
            times["kernel"].append(time_us(kernel))
            times["torchvision"].append(time_us(lambda inputs=inputs: by_torchvision(*inputs)))
        medians = {name: statistics.median(values[20:]) for name, values in times.items()}
        ratios = [a / b for a, b in zip(times["torchvision"][20:], times["kernel"][20:], strict=True)]
        rows.append({"batch": batch, "anchors": anchors, "above": above, **medians, "ratio": statistics.median(ratios)})
    where = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pose_nms.json").write_text(
        json.dumps({"machine": where, "rows": rows}, indent=2) + "\n", encoding="utf-8"
    )
    lines = [
        "# Pose NMS: the kernel and torchvision",
        "",
        f"Written by `benchmarks/pose_nms.py` on {where['gpu']}, torch {where['torch']}, CUDA {where['cuda']};"
        " median us.",
        "",
        "| batch | anchors | above threshold | kernel us | torchvision us | ratio |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['batch']} | {r['anchors']} | {r['above']} | {r['kernel']:.1f} | {r['torchvision']:.1f} |"
            f" {r['ratio']:.1f} |"
            for r in rows
        ),
    ]
    (RESULTS / "pose_nms.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
