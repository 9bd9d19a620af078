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
from torch import nn

from ..errors import ExportError
from ..formats import find_format
from ..graphs.surgery import extract_subgraph, to_graph, to_model
from ..images.pixels import example, letterbox
from ..results import predictions_of
from ..results.pairing import Difference, compare_predictions
from ..runtime.ort import OnnxRunner
from ..spec import ModelSpec
from .decode import DecodeBoxes
from .graph import DeployGraph
from .preprocess import Normalize
from .select import SelectDetections, SelectPoses

# ONNX Runtime and torch sum in different orders: on the published models that moves coordinates by up to 2e-3 px and
# scores by 1e-5 (CONTRIBUTING.md, tolerances). The limits here are 25 and 100 times that.
PX, SCORE = 0.05, 1e-3
# Tolerance for outputs without a unit (a caller's own post-processing), relative to their largest value.
RELATIVE = 1e-3
# Share of predictions that only one side may keep, when a score or an overlap is within rounding error of its
# threshold.
UNMATCHED_SHARE = 0.02
# The comparison lowers the threshold until at least this many candidates pass.
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
        if spec.plugins_required:
            graph, proto, names = _without_plugin(graph, proto, spec.plugins_required)
        if isinstance(graph.postprocess, (SelectPoses, SelectDetections)):
            graph, proto = _with_candidates(graph, proto, feed)
        outputs = graph(feed)
    expected = [value.cpu().numpy() for value in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
    with OnnxRunner(proto.SerializeToString(), providers=["cpu"]) as runner:
        found = runner.run({spec.input.name: pixels})
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


def _with_candidates(
    graph: DeployGraph, proto: onnx.ModelProto, feed: torch.Tensor
) -> tuple[DeployGraph, onnx.ModelProto]:
    """Returns the graph and the model with a confidence threshold that some candidates of the photograph pass."""
    select = graph.postprocess
    assert isinstance(select, (SelectPoses, SelectDetections))  # noqa: S101 - checked by the caller
    logits = graph.network(graph.preprocess(feed))[0]
    # In a pose model the first logit is the person's; the others belong to the joints.
    best = (logits[:, 0] if isinstance(select, SelectPoses) else logits.amax(dim=1)).sigmoid()  # (B, A)
    best = best.topk(min(_LEAST_CANDIDATES, best.shape[1]), dim=1).values[:, -1].min()
    threshold = min(select.selection.confidence, float(best) * 0.999)
    chosen = select.selection
    lowered = replace(chosen, confidence=threshold)
    surgery = to_graph(proto)
    node = next(node for node in surgery.nodes if node.op == "NonMaxSuppression")
    node.inputs[4] = gs.Constant("verification_threshold", np.array([threshold], np.float32))
    again: nn.Module = type(select)(select.decode, lowered)  # type: ignore[arg-type]
    return DeployGraph(graph.preprocess, graph.network, again, graph.layout), to_model(surgery, proto)


def _compare_found(expected: dict[str, Any], found: dict[str, Any], spec: ModelSpec, batch: int) -> None:
    for index in range(batch):
        gap = _gap(expected, found, spec, index)
        allowed = max(1, int(UNMATCHED_SHARE * (gap.first + gap.second)))
        if gap.unmatched > allowed or not (gap.px <= PX and gap.score <= SCORE):
            raise ExportError(
                f"comparing {spec.model}: torch and ONNX Runtime disagree: {gap} (allowed {PX} px, {SCORE} score,"
                f" {allowed} unmatched). Please report this; verification=False writes the file all the same."
            )


def _gap(expected: dict[str, Any], found: dict[str, Any], spec: ModelSpec, index: int) -> Difference:
    predictions = predictions_of(spec.task)
    return compare_predictions(*(predictions.from_outputs(outputs, spec, index) for outputs in (expected, found)))


def _compare_arrays(expected: list[npt.NDArray[Any]], found: list[npt.NDArray[Any]], spec: ModelSpec) -> None:
    for index, (want, got) in enumerate(zip(expected, found, strict=True)):
        same = want.shape == got.shape
        apart = np.abs(want.astype(np.float64) - got.astype(np.float64)) if same else np.ones(1)
        gap, allowed = float(apart.max(initial=0.0)), PX + RELATIVE * float(np.abs(want).max(initial=0))
        if not (same and gap <= allowed):
            raise ExportError(
                f"comparing {spec.model}: output {index} is {want.shape} in torch and {got.shape} in ONNX Runtime,"
                f" {gap:.3g} apart (allowed {allowed:.3g}). Please report this; verification=False writes the file all"
                " the same."
            )
