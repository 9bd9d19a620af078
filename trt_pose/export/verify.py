"""Comparison of an exported graph in ONNX Runtime with torch, on a real image, before the file is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from ..errors import ExportError
from ..files import temporary_folder, write_atomically
from ..formats import find_format
from ..images.pixels import example, letterbox
from ..operators.selection import Selection
from ..results import predictions_of
from ..results.pairing import compare_predictions
from ..runtime.ort import OnnxRunner
from ..spec import ModelSpec
from ..tasks import find_task
from .check_selection import PX, SCORE, Candidates, find_fault
from .decode import DecodeBoxes
from .graph import DeployGraph
from .preprocess import Normalize

# Tolerance for outputs without a unit (a caller's own post-processing), relative to their largest value.
RELATIVE = 1e-3
# Share of a coordinate by which it may differ beyond PX, for boxes and joints far outside the image.
_ROUNDING = 1e-5
# Share of predictions that only one side may keep, when a score or an overlap is within rounding error of its
# threshold.
UNMATCHED_SHARE = 0.02
# The comparison of a selection lowers the threshold until at least this many candidates pass.
_LEAST_CANDIDATES = 20


@dataclass(frozen=True)
class Reference:
    """What torch computes of the photograph.

    Attributes:
        feed: the input (B, C, H, W).
        values: the candidates before selection: boxes, scores and, for poses, joints; or the outputs, where nothing is
            selected.
        selection: the thresholds; None where nothing is selected.
    """

    feed: npt.NDArray[Any]
    values: tuple[npt.NDArray[Any], ...]
    selection: Selection | None


def compute_reference(graph: DeployGraph, spec: ModelSpec) -> Reference:
    """Runs the graph in torch on a bundled photograph."""
    pixels = _input(spec)
    with torch.inference_mode():
        feed = torch.from_numpy(pixels).to(next(graph.parameters(), torch.empty(0)).device)
        decode, selection = _selection_of(graph.postprocess) or (None, None)
        outputs = graph(feed) if decode is None else decode(graph.network(graph.preprocess(feed)))
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return Reference(pixels, tuple(value.cpu().numpy() for value in values), selection)


def verify(reference: Reference, proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Runs the model in ONNX Runtime on the photograph and compares its outputs with those of torch.

    A plugin node is run by the function that has its meaning.

    Raises:
        ExportError: the outputs differ by more than rounding explains; the message names the difference and the limit.
            Or nothing is found in the photograph, so that nothing is compared.
    """
    if reference.selection is not None:
        _compare_selected(reference, reference.selection, proto, spec)
        return
    found = _run(proto, spec, reference.feed)
    expected = dict(zip(spec.output.names, reference.values, strict=True))
    if find_format(spec).count(expected) == 0 or not any(array.size for array in reference.values):
        raise ExportError(
            f"comparing {spec.model}: nothing is found in the photograph of the check, so nothing was compared. Export"
            " with a lower threshold, or without the check: verification=False (--no-verify)."
        )
    if find_format(spec).finished:
        _compare_found(expected, found, spec, len(reference.feed))
    else:
        _compare_arrays(expected, found, spec)


def _selection_of(postprocess: torch.nn.Module) -> tuple[DecodeBoxes, Selection] | None:
    """Returns the decoder and the thresholds of a post-processing; None where it does not select."""
    modules = list(postprocess.modules())
    chosen = [
        found for found in (getattr(module, "selection", None) for module in modules) if isinstance(found, Selection)
    ]
    decode = [module for module in modules if isinstance(module, DecodeBoxes)]
    return (decode[0], chosen[0]) if decode and chosen else None


def _run(proto: onnx.ModelProto, spec: ModelSpec, feed: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    with temporary_folder("export") as folder:
        path = folder / "model.onnx"  # a file: its bytes would stay in memory beside what is made of them
        write_atomically(path, lambda target: onnx.save(proto, target), ExportError)
        with OnnxRunner(path, providers=["cpu"]) as runner:
            return runner.run({spec.input.name: feed})


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


def _compare_selected(reference: Reference, selection: Selection, proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Compares the selection of the file with torch's candidates, at a threshold that some of them pass.

    Raises:
        ExportError: it is not a valid selection from them.
    """
    boxes, scores, *joints = reference.values
    best = scores.max(axis=2)  # (B, A)
    least = np.sort(best, axis=1)[:, -min(_LEAST_CANDIDATES, best.shape[1])].min()
    chosen = replace(selection, confidence=min(selection.confidence, float(least) * 0.999))
    with _threshold(proto, spec, chosen.confidence):
        found = _run(proto, spec, reference.feed)
    predictions, none = predictions_of(spec.task), np.zeros((0, 3), np.float32)
    for index in range(len(reference.feed)):
        points = joints[0][index] if joints else np.broadcast_to(none, (len(boxes[index]), *none.shape))
        candidates = Candidates(boxes[index], scores[index], points)
        fault = find_fault(predictions.from_outputs(found, spec, index), candidates, chosen, find_task(spec.task))
        if fault:
            raise _disagree(spec, fault)


@contextmanager
def _threshold(proto: onnx.ModelProto, spec: ModelSpec, threshold: float) -> Iterator[None]:
    """Gives the model another confidence threshold for a while; a changed copy would hold all weights again.

    Raises:
        ExportError: the model does not have the threshold of its description.
    """
    graph = proto.graph
    node = next(node for node in graph.node if node.op_type in ("NonMaxSuppression", *spec.plugins_required))
    plugin, said = node.op_type in spec.plugins_required, np.float32(spec.output.confidence_threshold)
    score = next(item for item in node.attribute if item.name == "score_threshold") if plugin else None
    stored = _constant(graph, node.input[4]) if score is None else score.f
    if stored != said:
        raise _disagree(spec, f"the confidence threshold is {stored:g} in the file and {said:g} in torch")
    before = onnx.NodeProto()
    before.CopyFrom(node)
    if score is not None:
        score.f = threshold
    else:
        node.input[4] = "verification_threshold"
        graph.initializer.append(numpy_helper.from_array(np.array([threshold], np.float32), node.input[4]))
    try:
        yield
    finally:
        node.CopyFrom(before)
        if score is None:
            graph.initializer.pop()


def _constant(graph: onnx.GraphProto, name: str) -> float:
    """Returns the value of a scalar that is an initializer or the result of a Constant node."""
    tensors = {item.name: item for item in graph.initializer if item.name == name}
    tensors |= {item.output[0]: item.attribute[0].t for item in graph.node if list(item.output) == [name]}
    return float(numpy_helper.to_array(tensors[name]).item())


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


def _compare_arrays(expected: dict[str, Any], found: dict[str, Any], spec: ModelSpec) -> None:
    for name, want in expected.items():
        got = found[name]
        if want.shape != got.shape:
            raise _disagree(spec, f"{name} is {want.shape} in torch and {got.shape} in ONNX Runtime")
        apart = np.abs(want.astype(np.float64) - got.astype(np.float64))
        allowed = np.broadcast_to(_allowed(name, want, spec), want.shape)
        wrong = ~(apart <= allowed)  # also where one is NaN
        if wrong.any():
            worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(apart, nan=np.inf), 0)), want.shape)
            raise _disagree(spec, f"{name} is {apart[worst]:.3g} apart (allowed {allowed[worst]:.3g})")


def _allowed(name: str, want: npt.NDArray[Any], spec: ModelSpec) -> Any:
    """Returns how far each value of an output may be apart; px and scores each have a limit of their own."""
    if spec.output.format == "custom":  # without a unit: by the size of the output
        return np.array(RELATIVE * np.abs(want).max(initial=0.0) + 1e-9)
    places = PX + _ROUNDING * np.abs(want)
    if name == "pred_boxes":
        return places
    scores: npt.NDArray[Any] = np.full_like(places, SCORE)
    if name == "pred_joints":
        scores[..., :2] = places[..., :2]
    return scores
