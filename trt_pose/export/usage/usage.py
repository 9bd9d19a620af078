"""Usage instructions printed for an exported file. The tests execute every code block in them."""

from __future__ import annotations

from typing import Any

from ...formats import find_format
from ...operators.contract import EFFICIENT_NAME
from ...spec import InputSpec, ModelSpec
from ...tasks import TASKS
from . import templates


def usage_instructions(path: str, spec: ModelSpec) -> str:
    """Returns Markdown: the inputs and outputs of the file, and code that runs it."""
    values = _values(path, spec)
    trt_pose = _trt_pose(spec, values)
    if spec.plugins_required:
        return _facts(spec, values) + _tensorrt(spec, values) + trt_pose
    return _facts(spec, values) + trt_pose + _onnxruntime(spec, values)


def _values(path: str, spec: ModelSpec) -> dict[str, Any]:
    """Returns what the templates may name."""
    size = spec.input
    task = TASKS.get(spec.task, TASKS["pose"])  # a converted module has a task of its own, and no predictions
    inner_height, inner_width = size.resize_to
    return {
        "path": path, "quoted": repr(path), "stem": path.removesuffix(".onnx"), "model": spec.model,
        "input": size.name, "dtype": size.dtype, "batch": size.batch or "any", "images": size.batch or 1,
        "channels": size.channels, "height": size.height, "width": size.width,
        "size": f"{size.channels}x{size.height}x{size.width}",
        "sides": "H, W" if size.takes_any_size else f"{size.height}, {size.width}",
        "inner_height": inner_height, "inner_width": inner_width, "short": min(size.resize_to),
        "divisor": size.divisor, "pad_value": size.pad_value, "pixels": _pixels(size),
        "outputs": ", ".join(spec.output.names), "names": list(spec.output.names), "format": spec.output.format,
        "plugins": _plugins(spec), "joints": spec.skeleton.num_joints,
        "many": task.many, "result": task.result, "extra": templates.EXTRA[task.name], "task": task.name,
    }  # fmt: skip


def _plugins(spec: ModelSpec) -> str:
    names = spec.plugins_required
    return ("nodes " if len(names) > 1 else "node ") + " and ".join(names)


def _facts(spec: ModelSpec, values: dict[str, Any]) -> str:
    text = templates.FACTS.substitute(values)
    if spec.quantization:
        text += templates.RUNS_IN.substitute(quantization=spec.quantization)
    kept = spec.output
    if kept.confidence_threshold is not None:
        text += templates.KEPT.substitute(
            confidence=f"{kept.confidence_threshold:g}",
            iou=f"{kept.nms_threshold:g}",
            candidates=kept.num_pre_nms_predictions,
            limit=kept.max_predictions_per_image,
            many=values["many"],
        )
    return text


def _pixels(size: InputSpec) -> str:
    """Returns a description of the pixels of the input."""
    if size.custom_preprocessing:
        return "as the module before the network takes it"
    if not size.normalized_in_graph:
        return f"{size.normalization.channels}, minus {size.normalization.mean}, over {size.normalization.std}"
    if size.takes_any_size:
        how = "of any size"
        if size.resize == "shortest_side":
            how = f"the shorter side {min(size.resize_to)} px, both multiples of {size.divisor}"
        return f"RGB in 0..{size.white}, {how}"
    inner = f"{size.resize_to[0]} x {size.resize_to[1]}"
    how = f"stretched to {inner}" if size.resize == "stretch" else f"scaled to fit {inner}"
    where = "around it" if size.padding == "center" else "below and to the right"
    padded = size.resize == "longest_side" or size.resize_to != (size.height, size.width)
    return f"RGB in 0..255, {how}" + (f", {where} {size.pad_value}" if padded else "")


def _tensorrt(spec: ModelSpec, values: dict[str, Any]) -> str:
    """Returns the section that explains how to build an engine with the required plugin."""
    ours = EFFICIENT_NAME not in spec.plugins_required
    return templates.TENSORRT.substitute(
        values,
        shapes="" if spec.input.batch else templates.PROFILE.substitute(values),
        library=templates.OWN_LIBRARY if ours else "",
        hint=templates.OWN_HINT if ours else templates.EFFICIENT_HINT,
    )


def _trt_pose(spec: ModelSpec, values: dict[str, Any]) -> str:
    if not find_format(spec).finished or not spec.input.normalized_in_graph:
        return ""
    return templates.TRT_POSE.substitute(values, loop=templates.LOOPS[values["task"]])


def _onnxruntime(spec: ModelSpec, values: dict[str, Any]) -> str:
    return templates.ONNXRUNTIME.substitute(feed=_feed(spec.input, values), read=_read(spec, values))


def _feed(size: InputSpec, values: dict[str, Any]) -> str:
    """Returns code that reads an image, makes the input of it and runs the file."""
    if not size.normalized_in_graph or size.custom_preprocessing:
        return templates.FEED_TENSOR.substitute(values)
    resize, place = templates.RESIZE[size.resize], templates.PLACE[size.padding]
    x = templates.X_ANY_SIZE if size.takes_any_size else templates.X_PADDED
    return templates.FEED_IMAGE.substitute(
        values,
        placement=f"{resize.substitute(values)}\n{place.substitute(values)}",
        x=x.substitute(values, unit=" / 255" if size.white == 1 else ""),
    )


def _read(spec: ModelSpec, values: dict[str, Any]) -> str:
    """Returns code that prints the predictions in the outputs."""
    template = templates.READ.get(spec.output.format, templates.READ_TENSORS)
    body = templates.BODY[values["task"]]
    if not spec.input.normalized_in_graph:
        body = templates.BODY_TENSOR.substitute(values)
    return template.substitute(values, body=body, columns=templates.COLUMNS[values["task"]].substitute(values))
