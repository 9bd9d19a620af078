"""Comparison of an exported graph in ONNX Runtime with torch, on a real image, before the file is written."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import torch

from ..errors import ExportError
from ..formats import find_format
from ..graphs.surgery import extract_subgraph, to_graph, to_model
from ..images.pixels import example, letterbox
from ..results import predictions_of
from ..results.pairing import compare_predictions
from ..runtime.ort import OnnxRunner
from ..spec import ModelSpec
from ..tasks import find_task
from .check_selection import PX, SCORE, Candidates, find_fault
from .decode import DecodeBoxes
from .graph import DeployGraph
from .preprocess import Normalize
from .select import SelectDetections, SelectPoses

# Tolerance for outputs without a unit (a caller's own post-processing), relative to their largest value.
RELATIVE = 1e-3
# Share of predictions that only one side may keep, when a score or an overlap is within rounding error of its
# threshold.
UNMATCHED_SHARE = 0.02
# The comparison of a selection lowers the threshold until at least this many candidates pass.
_LEAST_CANDIDATES = 20


def verify(graph: DeployGraph, proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Runs the graph in torch and the model in ONNX Runtime on a bundled photograph and compares the outputs.

    Raises:
        ExportError: the outputs differ by more than rounding explains; the message names the difference and the limit.
    """
    pixels = _input(spec)
    names = spec.output.names
    with torch.inference_mode():
        feed = torch.from_numpy(pixels).to(next(graph.parameters(), torch.empty(0)).device)
        if isinstance(graph.postprocess, (SelectPoses, SelectDetections)):
            _compare_selected(graph, proto, spec, feed)
            return
        if spec.plugins_required:
            graph, proto, names = _without_plugin(graph, proto, spec.plugins_required)
        outputs = graph(feed)
    expected = [value.cpu().numpy() for value in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
    found = _run(proto, spec, feed)
    finished = find_format(spec).finished
    if finished and spec.input.takes_any_size and not len(expected[0]):
        warnings.warn(
            f"{spec.model} finds nobody above {spec.output.confidence_threshold:g} in the photograph of the check, so"
            " torch and ONNX Runtime were compared on nothing. Export with a lower threshold to compare them.",
            stacklevel=5,
        )
    if finished and not spec.plugins_required:
        _compare_found(dict(zip(names, expected, strict=True)), found, spec, len(pixels))
    else:
        _compare_arrays(expected, [found[name] for name in names], spec)


def _run(proto: onnx.ModelProto, spec: ModelSpec, feed: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
    with OnnxRunner(proto.SerializeToString(), providers=["cpu"]) as runner:
        return runner.run({spec.input.name: feed.cpu().numpy()})


def _without_plugin(
    graph: DeployGraph, proto: onnx.ModelProto, plugins: tuple[str, ...]
) -> tuple[DeployGraph, onnx.ModelProto, tuple[str, ...]]:
    """Returns the graph and the model up to the plugin node, and the names of the decoded heads."""
    decode = next(module for module in graph.postprocess.modules() if isinstance(module, DecodeBoxes))
    names = tuple(next(node for node in proto.graph.node if node.op_type in plugins).input)
    return graph.with_postprocess(decode), extract_subgraph(proto, names), names


def _input(spec: ModelSpec) -> npt.NDArray[Any]:
    """Returns the input (B, C, H, W): the photograph and its mirror image in turn; noise when C is not 3."""
    if spec.input.channels != 3:
        noise = np.random.default_rng(0).integers(
            0, 256, (spec.input.batch or 2, spec.input.channels, spec.input.height, spec.input.width)
        )
        return (noise if spec.input.normalized_in_graph else noise / 255).astype(spec.input.dtype)
    pixels, _ = letterbox(example(), spec.input)
    batch = np.stack([pixels if index % 2 == 0 else pixels[..., ::-1] for index in range(spec.input.batch or 2)])
    if spec.input.normalized_in_graph:
        return (batch * (spec.input.white / 255) if spec.input.white != 255 else batch).astype(spec.input.dtype)
    normalized: npt.NDArray[Any] = Normalize(spec.input.normalization)(torch.from_numpy(batch)).numpy()
    return normalized.astype(spec.input.dtype)


def _compare_selected(graph: DeployGraph, proto: onnx.ModelProto, spec: ModelSpec, feed: torch.Tensor) -> None:
    """Compares the selection of the file with torch's candidates, at a threshold that some of them pass.

    Raises:
        ExportError: it is not a valid selection from them.
    """
    select = graph.postprocess
    assert isinstance(select, (SelectPoses, SelectDetections))  # noqa: S101 - checked by the caller
    boxes, scores, *joints = (value.cpu().numpy() for value in select.decode(graph.network(graph.preprocess(feed))))
    best = scores.max(axis=2)  # (B, A)
    least = np.sort(best, axis=1)[:, -min(_LEAST_CANDIDATES, best.shape[1])].min()
    chosen = replace(select.selection, confidence=min(select.selection.confidence, float(least) * 0.999))
    found = _run(_with_threshold(proto, spec, chosen.confidence), spec, feed)
    predictions, none = predictions_of(spec.task), np.zeros((0, 3), np.float32)
    for index in range(len(feed)):
        points = joints[0][index] if joints else np.broadcast_to(none, (len(boxes[index]), *none.shape))
        candidates = Candidates(boxes[index], scores[index], points)
        fault = find_fault(predictions.from_outputs(found, spec, index), candidates, chosen, find_task(spec.task))
        if fault:
            raise _disagree(spec, fault)


def _with_threshold(proto: onnx.ModelProto, spec: ModelSpec, threshold: float) -> onnx.ModelProto:
    """Returns the model with another confidence threshold.

    Raises:
        ExportError: the model does not have the threshold of its description.
    """
    surgery = to_graph(proto)
    node = next(node for node in surgery.nodes if node.op == "NonMaxSuppression")
    stored, expected = float(node.inputs[4].values.item()), np.float32(spec.output.confidence_threshold)
    if stored != expected:
        raise _disagree(spec, f"the confidence threshold is {stored:g} in the file and {expected:g} in torch")
    node.inputs[4] = gs.Constant("verification_threshold", np.array([threshold], np.float32))
    return to_model(surgery, proto)


def _disagree(spec: ModelSpec, difference: str) -> ExportError:
    return ExportError(
        f"comparing {spec.model}: torch and ONNX Runtime disagree: {difference}. Please report this;"
        " verification=False writes the file all the same."
    )


def _compare_found(expected: dict[str, Any], found: dict[str, Any], spec: ModelSpec, batch: int) -> None:
    predictions = predictions_of(spec.task)
    for index in range(batch):
        gap = compare_predictions(*(predictions.from_outputs(outputs, spec, index) for outputs in (expected, found)))
        allowed = max(1, int(UNMATCHED_SHARE * (gap.first + gap.second)))
        if gap.unmatched > allowed or not (gap.px <= PX and gap.score <= SCORE):
            limits = f"allowed {PX} px, {SCORE} score, {allowed} unmatched"
            raise _disagree(spec, f"{gap.describe(find_task(spec.task))} ({limits})")


def _compare_arrays(expected: list[npt.NDArray[Any]], found: list[npt.NDArray[Any]], spec: ModelSpec) -> None:
    for index, (want, got) in enumerate(zip(expected, found, strict=True)):
        same = want.shape == got.shape
        apart = np.abs(want.astype(np.float64) - got.astype(np.float64)) if same else np.ones(1)
        gap, allowed = float(apart.max(initial=0.0)), PX + RELATIVE * float(np.abs(want).max(initial=0))
        if not (same and gap <= allowed):
            raise _disagree(
                spec,
                f"output {index} is {want.shape} in torch and {got.shape} in ONNX Runtime, {gap:.3g} apart (allowed"
                f" {allowed:.3g})",
            )
