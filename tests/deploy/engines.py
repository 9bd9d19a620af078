"""Engines as files: a plan's header and an ONNX file, with a description."""

import json
import struct
from pathlib import Path

from trt_pose.files import file_sha256
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.trt.sidecar import Sidecar

GPU = {"name": "A GPU", "compute_capability": "8.6"}


def write_engine(onnx, path, version="10.16.1.11", most=4, rtx=False, **changes):
    """Writes an engine whose plan is the ONNX file behind a header; returns its path."""
    numbers = [int(part) for part in version.split(".")]
    path.write_bytes(
        (b"vtrt" if rtx else b"ftrt") + bytes(20) + struct.pack("4B", *numbers) + bytes(4) + Path(onnx).read_bytes()
    )
    with OnnxRunner(onnx, providers=["cpu"]) as runner:
        spec, tensors = runner.spec, {**runner.inputs, **runner.outputs}
    shape = (spec.input.channels, spec.input.height, spec.input.width)
    profile = {} if spec.input.batch else {spec.input.name: [[size, *shape] for size in (1, 1, most)]}
    sidecar = Sidecar(
        spec,
        file_sha256(path),
        path.stat().st_size,
        "",
        "tensorrt_rtx" if rtx else "tensorrt",
        version,
        GPU,
        plugins=spec.plugins_required,
        profile=profile,
        elements={name: info.dtype for name, info in tensors.items()},
    )
    Path(f"{path}.json").write_text(json.dumps({**json.loads(sidecar.to_json()), **changes}))
    return path
