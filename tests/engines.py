"""Engines as files: a header and what stands for a plan, with a description beside it."""

import json
import struct
from pathlib import Path

from trt_pose.files import file_sha256
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.trt.flavor import RTX, TENSORRT
from trt_pose.trt.sidecar import Sidecar

_TAGS = {TENSORRT: b"ftrt", RTX: b"vtrt"}


def write_plan(onnx, path, content, version, gpu, changes, flavor=TENSORRT):
    """Writes an engine of an ONNX file; returns its path.

    Args:
        onnx: the ONNX file.
        path: the engine to write.
        content: what follows the header.
        version: version of TensorRT, four numbers.
        gpu: the GPU in the description.
        changes: other values of the description, by name.
        flavor: ``tensorrt`` or ``tensorrt_rtx``, by the header.
    """
    numbers = struct.pack("4B", *map(int, version.split(".")))
    path.write_bytes(_TAGS[flavor] + bytes(20) + numbers + bytes(4) + content)
    with OnnxRunner(onnx, providers=["cpu"]) as runner:
        spec, tensors = runner.spec, {**runner.inputs, **runner.outputs}
    sidecar = Sidecar(
        spec,
        file_sha256(path),
        path.stat().st_size,
        "",
        flavor,
        version,
        gpu,
        plugins=spec.plugins_required,
        elements={name: info.dtype for name, info in tensors.items()},
    )
    Path(f"{path}.json").write_text(json.dumps({**json.loads(sidecar.to_json()), **changes}))
    return path
