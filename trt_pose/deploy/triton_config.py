"""The configurations of a Triton model repository.

Their fields: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..spec import ModelSpec
from ..tasks import find_task
from .model_file import ModelFile
from .protobuf_text import Word
from .triton_steps import IMAGE, PARAMETER, PIXELS, PLACEMENT

Config = dict[str, Any]
STEPS = ("preprocess", "network", "postprocess")
_ELEMENTS = {
    "uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "bytes": "TYPE_STRING",
}  # fmt: skip


@dataclass(frozen=True)
class TritonOptions:
    """How a model is served.

    Attributes:
        name: name of the model that clients ask.
        pixels: serve the network alone: clients send letterboxed images.
        max_batch: images per run at most; None takes the largest batch of an engine, or 8.
        delay_us: how long the scheduler waits for a batch to fill, microseconds.
        instances: copies of the network, on each GPU.
        gpus: GPUs for the network; empty for all, or for the CPU where there is none.
        preprocess_instances: processes that decode images.
        threads: threads of ONNX Runtime for each copy; None takes one per core.
        plugins: the plugin library for an engine that needs it; None takes the one that is found.
        release: release of Triton, ``25.06``; None takes the newest that is known to fit.

    Raises:
        UsageError: an option is out of range.
    """

    name: str = "pose"
    pixels: bool = False
    max_batch: int | None = None
    delay_us: int = 2000
    instances: int = 1
    gpus: tuple[int, ...] = ()
    preprocess_instances: int = 2
    threads: int | None = None
    plugins: str | Path | None = None
    release: str | None = None

    def __post_init__(self) -> None:
        bounds = {
            "max_batch": (self.max_batch, 1, 4096), "delay_us": (self.delay_us, 0, 60_000_000),
            "instances": (self.instances, 1, 1024), "preprocess_instances": (self.preprocess_instances, 1, 1024),
            "threads": (self.threads, 1, 1024), "gpus": (max(self.gpus, key=abs, default=None), 0, 1024),
        }  # fmt: skip
        for option, (value, least, most) in bounds.items():
            if value is not None and not least <= value <= most:
                raise UsageError(f"deploying to Triton: {option} is {value}, expected {least} to {most}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            raise UsageError(f"deploying to Triton: name is {self.name!r}, expected letters, digits, '_', '.' and '-'.")


@dataclass(frozen=True)
class Served:
    """A model and how it is served.

    Attributes:
        model: the model file.
        options: the options.
        max_batch: images per run at most; 0 for a file of a fixed batch, whose tensors then have it.
    """

    model: ModelFile
    options: TritonOptions
    max_batch: int

    @property
    def batch(self) -> tuple[int, ...]:
        """The part of each shape that Triton does not add."""
        return () if self.max_batch else (self.model.fixed_batch or 1,)

    def tensor(self, name: str, element: str, shape: Sequence[int]) -> Config:
        """Returns the description of a tensor; ``shape`` is without the batch."""
        return {"name": name, "data_type": Word(_ELEMENTS[element]), "dims": [*self.batch, *shape]}

    @property
    def configs(self) -> dict[str, Config]:
        """The configurations, by name of the model."""
        name = self.options.name
        return {name: configure_network(self, name)} if self.options.pixels else configure_ensemble(self)


def configure_network(served: Served, name: str) -> Config:
    """Returns the configuration of the network."""
    model, options = served.model, served.options
    spec, engine = model.spec, model.sidecar is not None
    tensors = {name: served.tensor(name, model.elements[name], shape) for name, shape in model.shapes().items()}
    group: Config = {"count": options.instances}  # without a kind: the GPU where there is one
    if options.gpus:
        group |= {"kind": Word("KIND_GPU"), "gpus": list(options.gpus)}
    runs: Config = {"platform": "tensorrt_plan"} if engine else {"backend": "onnxruntime"}
    config: Config = {
        "name": name,
        **runs,
        "max_batch_size": served.max_batch,
        "input": [tensors.pop(spec.input.name)],
        "output": list(tensors.values()),
        "instance_group": [group],
    }
    if served.max_batch > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": options.delay_us}
    if engine:
        config["optimization"] = {"cuda": _cuda_graphs(served)}
    values = {PARAMETER: spec.to_json()}
    if options.threads is not None:
        values["intra_op_thread_count"] = str(options.threads)
    return {**config, "parameters": _parameters(values)}


def configure_ensemble(served: Served) -> dict[str, Config]:
    """Returns the configurations of the steps and of the ensemble that joins them, by name of the model."""
    spec, options = served.model.spec, served.options
    names = {step: f"{options.name}_{step}" for step in STEPS}
    network = configure_network(served, names["network"])
    image, placement = [served.tensor(IMAGE, "bytes", (1,))], served.tensor(PLACEMENT, "float32", (4,))
    pixels = {**network["input"][0], "name": PIXELS}
    found = [served.tensor(tensor, element, shape) for tensor, (element, shape) in _results(spec).items()]
    common = {"max_batch_size": served.max_batch, "parameters": _parameters({PARAMETER: spec.to_json()})}

    def step(name: str, inputs: list[Config], outputs: list[Config], count: int) -> Config:
        group = {"count": count, "kind": Word("KIND_CPU")}
        return {
            "name": name, "backend": "python", "input": inputs, "output": outputs, "instance_group": [group], **common
        }  # fmt: skip

    ensemble = {
        "name": options.name,
        "platform": "ensemble",
        "input": image,
        "output": found,
        "ensemble_scheduling": {"step": _steps(spec, names)},
        **common,
    }
    before = step(names["preprocess"], image, [pixels, placement], options.preprocess_instances)
    after = step(names["postprocess"], [placement, *network["output"]], found, 1)
    return {options.name: ensemble, names["preprocess"]: before, names["network"]: network, names["postprocess"]: after}


def _steps(spec: ModelSpec, names: dict[str, str]) -> list[Config]:
    raw = {tensor: f"raw_{tensor}" for tensor in _results(spec)}
    results = {tensor: tensor for tensor in raw}
    return [
        _step(names["preprocess"], {IMAGE: IMAGE}, {PIXELS: PIXELS, PLACEMENT: PLACEMENT}),
        _step(names["network"], {spec.input.name: PIXELS}, raw),
        _step(names["postprocess"], {PLACEMENT: PLACEMENT, **raw}, results),
    ]


def _step(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> Config:
    return {
        "model_name": name,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _results(spec: ModelSpec) -> dict[str, tuple[str, Sequence[int]]]:
    """Returns element type and shape, without the batch, of what clients get, by name of the tensor."""
    task = find_task(spec.task)
    extra: tuple[str, Sequence[int]] = ("int32", (-1,))
    if task.point_values:
        extra = ("float32", (-1, spec.skeleton.num_joints, task.point_values))
    return {
        "num_predictions": ("int32", (1,)),
        "pred_boxes": ("float32", (-1, 4)),
        "pred_scores": ("float32", (-1,)),
        task.extra_output: extra,
    }


def _cuda_graphs(served: Served) -> Config:
    """Returns the options of CUDA graphs: one graph for each batch that is a power of two, and the largest."""
    name = served.model.spec.input.name
    sizes = sorted({*(1 << power for power in range(12) if 1 << power < served.max_batch), served.max_batch})
    shape = [*served.batch, *served.model.shapes()[name]]
    specs = [{"batch_size": size, "input": [{"key": name, "value": {"dim": shape}}]} for size in sizes]
    return {"graphs": True, "output_copy_stream": True, "busy_wait_events": True, "graph_spec": specs}


def _parameters(values: dict[str, str]) -> list[Config]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]
