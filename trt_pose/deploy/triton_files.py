"""The files beside a Triton model repository: Dockerfile, client, README."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec import ModelSpec
from ..tasks import POSE, find_task
from .triton_config import Served

IMAGE = "nvcr.io/nvidia/tritonserver"


def make_dockerfile(release: str, arguments: Sequence[str], library: bool, pixels: bool) -> str:
    """Returns the Dockerfile.

    Args:
        release: release of Triton.
        arguments: the arguments of ``tritonserver``.
        library: whether there is a plugin library.
        pixels: whether the network is served alone; the steps around it need this package.
    """
    lines = [f"FROM {IMAGE}:{release}-py3"]
    if not pixels:
        lines += [
            "COPY trt_pose*.whl /tmp/",
            "RUN PIP_BREAK_SYSTEM_PACKAGES=1 pip install --no-cache-dir /tmp/trt_pose*.whl",
        ]
    lines += ["COPY models /models", *(["COPY plugins /plugins"] if library else [])]
    command = ", ".join(f'"{word}"' for word in ("tritonserver", *arguments))
    return "\n".join([*lines, f"CMD [{command}]", ""])


def make_client(spec: ModelSpec, name: str) -> str:
    """Returns a client that sends image files and prints what the server finds."""
    task = find_task(spec.task)
    labels = 'spec["skeleton"]["names"]' if task is POSE else 'spec["class_names"]'
    show = "dict(zip(labels, map(tuple, item)))" if task is POSE else "labels[item] if labels else item"
    return f'''"""Sends image files to the server and prints what it finds: python client.py photo.jpg ..."""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http  # pip install 'tritonclient[http]'

client = tritonclient.http.InferenceServerClient("localhost:8000")
spec = json.loads(client.get_model_config("{name}")["parameters"]["trt_pose"]["string_value"])
labels = {labels}
for path in sys.argv[1:]:
    image = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[Path(path).read_bytes()]], dtype=object))
    found = client.infer("{name}", [image])
    names = ("pred_boxes", "pred_scores", "{task.extra_output}")
    boxes, scores, items = (found.as_numpy(name)[0].tolist() for name in names)
    print(f"{{path}}: {{len(scores)}} {task.many}")
    for box, score, item in zip(boxes, scores, items):
        print(f"  {{score:.2f}} {{[round(side) for side in box]}}", {show})
'''


def make_readme(served: Served, release: str, note: str) -> str:
    """Returns the README of the folder."""
    options, spec = served.options, served.model.spec
    task, joints = find_task(spec.task), spec.skeleton.num_joints
    extra = (
        f"`pred_joints [B, N, {joints}, 3]` FP32: x, y, confidence" if task is POSE else "`pred_classes [B, N]` INT32"
    )
    taken = f"{spec.input.dtype} pixels of letterboxed images" if options.pixels else "the bytes of image files"
    built = f"docker build -t {options.name}-server ."
    wheel = "" if options.pixels else "pip wheel --no-deps --wheel-dir . PATH/OF/THE/CLONE/OF/trt_pose\n"
    client = "" if options.pixels else _ASK.format(task=task.many)
    batch = f"up to {served.max_batch} images" if served.max_batch else f"exactly {served.batch[0]} image(s)"
    engine = "" if served.model.sidecar is None else _ENGINE.format(note=note, release=release, image=IMAGE)
    size = "" if options.pixels else ", px of the client's image"
    rows = "the file's N" if options.pixels else "the largest number of predictions in the batch"
    return f"""# {spec.model} in Triton Inference Server {release}

Written by {spec.generator.partition(" ")[0] or "trt_pose"}. Start it where Docker and the NVIDIA container toolkit are:

```shell
{wheel}{built}
docker run --rm --gpus all -p 8000:8000 -p 8001:8001 -p 8002:8002 {options.name}-server
```

Without a GPU, leave `--gpus all` out: an ONNX file then runs on the CPU. `models/` is the repository, for a server of
your own.

Clients send {taken}, {batch} at once, to the model `{options.name}`, by HTTP (8000) or gRPC (8001). They get
`num_predictions [B, 1]`, `pred_boxes [B, N, 4]` FP32 (x1, y1, x2, y2{size}), `pred_scores [B, N]` FP32 and
{extra}. N is {rows}; rows past the count are no predictions.
Names of joints and classes are in the parameter `trt_pose` of the model's configuration, as JSON.
{client}{engine}"""


_ASK = """
```shell
pip install 'tritonclient[http]'
python client.py photo.jpg
```

It prints the {task} of each image. What is not an image is answered by status 400 and a sentence. Metrics are at port
8002. `perf_analyzer -m NAME --input-data DIR` makes load; DIR holds an image file with the name `image`. If images
decode slower than the network runs, raise `count` in the configuration of the preprocessing.
"""
_ENGINE = """
{note} A server with another TensorRT does not load the engine and says so in its log.
`docker run --rm {image}:{release}-py3 sh -c "dpkg -l | grep nvinfer"` prints the version in the image; build the engine
with that one, for the GPU that serves it.
"""
