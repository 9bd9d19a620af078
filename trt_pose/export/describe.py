"""The ModelSpec of a model that is run or exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .._version import __version__
from ..operators.selection import Selection
from ..spec import InputSpec, ModelSpec, OutputSpec

if TYPE_CHECKING:
    from ..models.model import Model


def describe(
    model: Model,
    selection: Selection | None,
    names: Sequence[str],
    *,
    inputs: InputSpec | None = None,
    batch: int | None = 1,
    output_format: str = "batch",
    plugins: tuple[str, ...] = (),
    digest: bool = False,
) -> ModelSpec:
    """Returns the description of ``model`` with ``selection`` applied.

    Args:
        model: the described model.
        selection: thresholds and limits; None when the file only decodes.
        names: output tensor names in order.
        inputs: the input description; None takes the model's own with ``batch``.
        batch: batch size, None for symbolic; ignored when ``inputs`` is given.
        output_format: name of the output format.
        plugins: operators the file needs beyond ONNX.
        digest: whether to compute the SHA-256 of the weights (0.2 s for the largest model).
    """
    chosen = selection
    outputs = OutputSpec(
        format=output_format,
        names=tuple(names),
        confidence_threshold=chosen.confidence if chosen else None,
        nms_threshold=chosen.iou if chosen else None,
        max_predictions_per_image=chosen.limit if chosen else None,
        num_pre_nms_predictions=chosen.candidates if chosen else None,
    )
    inputs = inputs or replace(model.processing.input, batch=batch)
    return describe_outputs(model, inputs, outputs, plugins=plugins, digest=digest)


def describe_outputs(
    model: Model, inputs: InputSpec, outputs: OutputSpec, *, plugins: tuple[str, ...] = (), digest: bool = False
) -> ModelSpec:
    """Returns the description of ``model`` with the given inputs and outputs."""
    return ModelSpec(
        model=model.name,
        task=model.task,
        input=inputs,
        output=outputs,
        skeleton=model.processing.skeleton,
        class_names=model.processing.class_names,
        weights=model.weights,
        weights_sha256=model.weights_sha256() if digest else "",
        plugins_required=plugins,
        generator=f"trt_pose {__version__}",
    )
