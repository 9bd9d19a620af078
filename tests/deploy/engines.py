"""Engines whose plan is the ONNX file, which triton_backend.py runs."""

from pathlib import Path

from trt_pose.runtime.ort import OnnxRunner
from trt_pose.trt.flavor import RTX, TENSORRT

from ..engines import write_plan

GPU = {"name": "A GPU", "compute_capability": "8.6"}


def write_engine(onnx, path, version="10.16.1.11", most=4, rtx=False, **changes):
    """Writes an engine whose profile ends at ``most`` images, if the batch is symbolic; returns its path."""
    with OnnxRunner(onnx, providers=["cpu"]) as runner:
        source = runner.spec.input
    shape = (source.channels, source.height, source.width)
    profile = {} if source.batch else {source.name: [[size, *shape] for size in (1, 1, most)]}
    content, flavor = Path(onnx).read_bytes(), RTX if rtx else TENSORRT
    return write_plan(onnx, path, content, version, GPU, {"profile": profile, **changes}, flavor)
