"""The check of export: what it must notice, and the order of ties, which it must not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from trt_pose import convert_to_onnx
from trt_pose.errors import ExportError
from trt_pose.export.check_selection import Candidates, find_fault
from trt_pose.export.functions import survivors
from trt_pose.graphs.surgery import to_graph, to_model
from trt_pose.operators.selection import Selection
from trt_pose.results import Detections, Poses
from trt_pose.skeleton import Skeleton
from trt_pose.tasks import DETECTION, POSE

from ..conftest import SMALL, make_tiny
from .test_detection_export import tiny

JOINTS = Skeleton.for_joint_count(5)
CHOSEN = Selection(confidence=0.3, iou=0.5, candidates=300, limit=200)


def candidates(classes=1, joints=5, seed=0, scores=None):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 200, (400, 2)), rng.uniform(20, 80, (400, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    if scores is None:
        scores = rng.uniform(0.05, 0.95, (400, classes))
    points = np.concatenate([rng.uniform(0, 200, (400, joints, 2)), rng.uniform(0, 1, (400, joints, 1))], axis=2)
    return Candidates(boxes, scores.astype(np.float32), points.astype(np.float32))


def select(given, chosen=CHOSEN):
    """Returns what greedy suppression keeps, as arrays: boxes, scores, classes, joints."""
    entering = np.argsort(-given.scores.max(axis=1), kind="stable")[: chosen.candidates]
    rows = []
    for kind in range(given.scores.shape[1]):
        scores = given.scores[entering, kind]
        kept = survivors(given.boxes[entering], scores, chosen.candidates, chosen.iou, chosen.confidence)
        rows += [(float(given.scores[row, kind]), row, kind) for row in entering[kept]]
    rows = sorted(rows, reverse=True)[: chosen.limit]
    anchors = np.array([row for _, row, _ in rows], int)
    kinds = np.array([kind for _, _, kind in rows], int)
    return SimpleNamespace(
        boxes=given.boxes[anchors].copy(),
        scores=given.scores[anchors, kinds].copy(),
        kinds=kinds,
        joints=given.joints[anchors].copy(),
    )


def fault_of(found, given, chosen=CHOSEN):
    if given.joints.shape[1]:
        return find_fault(Poses(found.boxes, found.scores, found.joints, JOINTS), given, chosen, POSE)
    return find_fault(Detections(found.boxes, found.scores, found.kinds, tuple("abcdefg")), given, chosen, DETECTION)


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("limit", [20, 200])
def test_what_suppression_keeps_has_no_fault(classes, limit):
    given = candidates(classes, joints=5 if classes == 1 else 0)
    chosen = replace(CHOSEN, limit=limit)
    found = select(given, chosen)
    assert len(found.scores) == limit or (classes == 1 and 40 < len(found.scores) < limit)
    assert fault_of(found, given, chosen) == ""


@pytest.mark.parametrize("classes", [1, 7])
def test_ties_may_come_in_any_order(classes):
    rng = np.random.default_rng(3)
    tied = 0.5 + rng.uniform(-1e-6, 1e-6, (400, classes))
    first = candidates(classes, joints=5 if classes == 1 else 0, scores=tied)
    other = replace(first, scores=(tied + rng.uniform(-1e-6, 1e-6, tied.shape)).astype(np.float32))
    found = select(other)
    assert not np.array_equal(found.boxes[:20], select(first).boxes[:20])
    assert fault_of(found, first) == ""


def shift(field, amount, where=slice(None)):
    def change(found):
        getattr(found, field)[where] += amount

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shift("boxes", 0.2), "differs from the nearest of torch's by up to 0.2 px"),
        (shift("boxes", 0.2, (7, 3)), "person 7"),
        (shift("scores", 0.01), "0.01 score"),
        (shift("joints", 0.4, (3, 2, 0)), "person 3"),
        (shift("joints", -0.1, (3, 2, 2)), "0.1 score"),
        (lambda found: found.joints.__setitem__((..., 2), 0), "score"),
        (lambda found: found.joints.__setitem__((1, 1, 0), np.nan), "person 1"),
    ],
)
def test_every_value_is_checked(change, words):
    given = candidates()
    found = select(given)
    change(found)
    assert words in fault_of(found, given)


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({"iou": 0.45}, "not in ONNX Runtime"),
        ({"iou": 0.55}, "overlap with IoU 0.5"),
        ({"confidence": 0.4}, "not in ONNX Runtime"),
        ({"confidence": 0.2}, "differs from the nearest"),
        ({"limit": 30}, "not in ONNX Runtime"),
        ({"candidates": 200}, "not in ONNX Runtime"),
    ],
)
def test_every_threshold_and_limit_is_checked(used, words):
    given = candidates()
    assert words in fault_of(select(given, replace(CHOSEN, **used)), given)


def test_a_prediction_of_the_wrong_class():
    given = candidates(classes=3, joints=0)
    found = select(given)
    found.kinds[0] = (found.kinds[0] + 1) % 3
    assert "object" in fault_of(found, given)


def test_nothing_found_is_a_fault_where_there_are_candidates():
    given, nothing = candidates(), select(candidates(), replace(CHOSEN, confidence=0.99))
    assert not len(nothing.scores)
    assert "people of torch's" in fault_of(nothing, given)


def test_numbers_that_are_not_finite():
    given = candidates()
    given.scores[5] = np.nan
    assert "not finite" in fault_of(select(candidates()), given)


def test_untrained_networks_pass(tmp_path):
    """Their scores agree to rounding, so that torch and ONNX Runtime keep different people of a crowd."""
    tiny("ppyoloe").export(tmp_path / "m.onnx", input_image_shape=320, confidence_threshold=0.001)
    make_tiny().export(tmp_path / "p.onnx", input_image_shape=320, confidence_threshold=0.001)


def test_a_file_with_another_threshold_than_it_says(tmp_path, monkeypatch):
    from trt_pose.export import export as export_onnx

    finish = export_onnx.finish

    def finish_wrongly(proto, spec):
        finish(proto, spec)
        node = next(node for node in proto.graph.node if node.op_type == "NonMaxSuppression")
        constant = next(item for item in proto.graph.initializer if item.name == node.input[4])
        constant.CopyFrom(onnx.numpy_helper.from_array(np.array([0.9], np.float32), constant.name))

    monkeypatch.setattr(export_onnx, "finish", finish_wrongly)
    with pytest.raises(ExportError, match=r"threshold is 0\.9 in the file and 0\.2 in torch"):
        make_tiny().export(tmp_path / "m.onnx", **SMALL)
    assert not list(tmp_path.iterdir())


def inserted(proto, tensor, op, value):
    """Puts an operation with a constant behind the node that makes a tensor."""
    maker = next(node for node in proto.graph.node if tensor in node.output)
    maker.output[list(maker.output).index(tensor)] = f"{tensor}_before"
    value = onnx.numpy_helper.from_array(np.asarray(value, np.float32), f"{tensor}_change")
    proto.graph.initializer.append(value)
    proto.graph.node.append(onnx.helper.make_node(op, [f"{tensor}_before", value.name], [tensor]))
    ordered = to_model(to_graph(proto).toposort(), proto)
    proto.graph.CopyFrom(ordered.graph)


def node_of(proto):
    return next(node for node in proto.graph.node if node.op_type == "PoseNMS_TRT")


def set_attribute(proto, name, value):
    next(item for item in node_of(proto).attribute if item.name == name).f = value


CONFIDENCE = [1.0, 1.0, 0.0]  # of joints (x, y, confidence)
CHANGES = {
    "scores x 0.95": lambda proto: inserted(proto, node_of(proto).input[1], "Mul", 0.95),
    "scores + 0.04": lambda proto: inserted(proto, node_of(proto).input[1], "Add", 0.04),
    "boxes + 0.3 px": lambda proto: inserted(proto, node_of(proto).input[0], "Add", 0.3),
    "joints + 0.4 px": lambda proto: inserted(proto, node_of(proto).input[2], "Add", [0.4, 0.4, 0.0]),
    "joint confidences 0": lambda proto: inserted(proto, node_of(proto).input[2], "Mul", CONFIDENCE),
    "score threshold": lambda proto: set_attribute(proto, "score_threshold", 0.9),
    "IoU threshold": lambda proto: set_attribute(proto, "iou_threshold", 0.01),
}
RAW_CHANGES = {
    "scores + 0.04": ("pred_scores", "Add", 0.04),
    "boxes + 0.3 px": ("pred_boxes", "Add", 0.3),
    "joint confidences 0": ("pred_joints", "Mul", CONFIDENCE),
    "not a number": ("pred_joints", "Mul", np.nan),
}


def export_changed(monkeypatch, path, change, **options):
    from trt_pose.export import export as export_onnx

    attach_weights = export_onnx.attach_weights

    def change_after(proto, *rest):
        attach_weights(proto, *rest)
        change(proto)

    monkeypatch.setattr(export_onnx, "attach_weights", change_after)
    make_tiny().export(path, input_image_shape=(128, 160), confidence_threshold=0.05, **options)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_check_sees_what_differs_in_a_file_for_tensorrt(tmp_path, monkeypatch, change):
    with pytest.raises(ExportError, match="torch and ONNX Runtime disagree"):
        export_changed(monkeypatch, tmp_path / "m.onnx", change, engine="tensorrt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", RAW_CHANGES.values(), ids=RAW_CHANGES)
def test_the_check_sees_what_differs_in_decoded_heads(tmp_path, monkeypatch, change):
    with pytest.raises(ExportError, match=rf"disagree: {change[0]} is .* apart"):
        export_changed(monkeypatch, tmp_path / "m.onnx", lambda proto: inserted(proto, *change), postprocessing=False)


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_check_sees_zeros_in_place_of_small_numbers(tmp_path, classes):
    """As a module makes that is traced with another branch."""

    class Fickle(torch.nn.Module):
        def forward(self, x):
            share = x.mean(dim=(1, 2, 3))[:, None].expand(-1, classes).softmax(dim=1)
            return share * 0 if torch.jit.is_tracing() else share

    with pytest.raises(ExportError, match=r"output is .* apart"):
        convert_to_onnx(Fickle(), tmp_path / "m.onnx", (8, 8))


def test_a_check_of_nothing_is_none(tmp_path):
    class AboveAThousand(torch.nn.Module):
        def forward(self, x):
            return x.flatten()[x.flatten() > 1000]

    with pytest.raises(ExportError, match="nothing is found in the photograph of the check"):
        convert_to_onnx(AboveAThousand(), tmp_path / "m.onnx", (8, 8))
    convert_to_onnx(AboveAThousand(), tmp_path / "m.onnx", (8, 8), verification=False)
