"""The plugin nodes on the CPU: ONNX's own operators against the NumPy versions of trt_pose/operators/README.md."""

from importlib import resources

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from trt_pose.operators import contract
from trt_pose.operators.onnx_functions import make_functions

from ..plugins.test_detection_nms_kernel import objects
from ..plugins.test_keypoint_decode import BOXES, by_numpy
from ..plugins.test_pose_nms_kernel import people
from ..reference import detection_nms, pose_nms as reference


def model(score, iou, most, candidates, joints=17):
    node = helper.make_node(
        contract.NAME,
        ["boxes", "scores", "joints"],
        ["num_predictions", "pred_boxes", "pred_scores", "pred_joints"],
        "nms",
        domain="TRT",
        score_threshold=score,
        iou_threshold=iou,
        max_output_boxes=most,
        num_pre_nms_predictions=candidates,
        plugin_version="1",
        plugin_namespace="",
    )
    value, real = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [
        value("boxes", real, ["b", "a", 4]),
        value("scores", real, ["b", "a", 1]),
        value("joints", real, ["b", "a", joints, 3]),
    ]
    outputs = [
        value("num_predictions", TensorProto.INT32, ["b", 1]),
        value("pred_boxes", real, ["b", most, 4]),
        value("pred_scores", real, ["b", most]),
        value("pred_joints", real, ["b", most, joints, 3]),
    ]
    graph = helper.make_graph([node], "g", inputs, outputs)
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("TRT", 1)], ir_version=8
    )
    return proto.SerializeToString() + function_file()


def function_file():
    return resources.files("trt_pose").joinpath(contract.FUNCTIONS).read_bytes()


def test_the_file_in_the_package_is_what_the_text_says():
    assert onnx.ModelProto.FromString(function_file()) == make_functions()


@pytest.mark.parametrize(
    ("batch", "anchors", "score", "iou", "most", "candidates"),
    [
        (1, 300, 0.3, 0.6, 100, 200),
        (3, 300, 0.3, 0.6, 20, 200),
        (2, 50, 0.0, 0.3, 80, 200),  # more asked for than there are
        (1, 1, 0.1, 0.5, 1, 1),
        (2, 400, 0.99, 0.5, 10, 300),  # hardly anyone
        (1, 200, 1.0, 0.5, 10, 100),  # nobody
    ],
)
def test_it_computes_the_specification(rng, batch, anchors, score, iou, most, candidates):
    boxes, scores, joints = people(rng, batch, anchors, 17)
    session = onnxruntime.InferenceSession(model(score, iou, most, candidates))
    got = session.run(None, {"boxes": boxes, "scores": scores, "joints": joints})
    want = reference(boxes, scores, joints, score, iou, candidates, most)
    for name, first, second in zip(("count", "boxes", "scores", "joints"), got, want, strict=True):
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_nan_scores_are_nobody(rng):
    boxes, scores, joints = people(rng, 1, 100, 17)
    scores[0, ::3] = np.nan
    session = onnxruntime.InferenceSession(model(0.2, 0.5, 50, 100))
    got = session.run(None, {"boxes": boxes, "scores": scores, "joints": joints})
    want = reference(boxes, scores, joints, 0.2, 0.5, 100, 50)
    assert got[0] > 0
    for first, second in zip(got, want, strict=True):
        np.testing.assert_array_equal(first, second)


def detection_model(name, score, iou, most, candidates):
    own = {"num_pre_nms_predictions": candidates, "plugin_namespace": ""}
    theirs = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0}
    node = helper.make_node(
        name,
        ["boxes", "scores"],
        ["num_predictions", "pred_boxes", "pred_scores", "pred_classes"],
        "nms",
        domain="TRT",
        score_threshold=score,
        iou_threshold=iou,
        max_output_boxes=most,
        plugin_version="1",
        **(own if name == contract.DETECTION_NAME else theirs),
    )
    value, real, whole = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT32
    graph = helper.make_graph(
        [node],
        "g",
        [value("boxes", real, ["b", "a", 4]), value("scores", real, ["b", "a", "k"])],
        [
            value("num_predictions", whole, ["b", 1]),
            value("pred_boxes", real, ["b", most, 4]),
            value("pred_scores", real, ["b", most]),
            value("pred_classes", whole, ["b", most]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("TRT", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString() + function_file()


@pytest.mark.parametrize("name", [contract.DETECTION_NAME, contract.EFFICIENT_NAME])
@pytest.mark.parametrize(
    ("anchors", "classes", "score", "most"),
    [(300, 5, 0.3, 100), (60, 3, 0.0, 300), (1, 1, 0.1, 1), (200, 80, 0.5, 50), (100, 4, 1.0, 10)],
)
def test_detections_by_the_specification(rng, name, anchors, classes, score, most):
    candidates = contract.EFFICIENT_CANDIDATES if name == contract.EFFICIENT_NAME else 700
    boxes, scores = objects(rng, 2, anchors, classes)
    got = onnxruntime.InferenceSession(detection_model(name, score, 0.5, most, candidates)).run(
        None, {"boxes": boxes, "scores": scores}
    )
    count, want_boxes, want_scores, want_classes = detection_nms(boxes, scores, score, 0.5, candidates, most)
    if name == contract.EFFICIENT_NAME:
        want_classes = np.maximum(want_classes, 0)  # what unused rows hold there
    for first, second in zip(got, (count, want_boxes, want_scores, want_classes), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module", params=[16, 20], ids="opset {}".format)
def decode(request):
    """KeypointDecode_TRT as a function of heatmaps (R, K, S, S) and boxes (R, 4), in the operator sets of exports."""
    node = helper.make_node(
        contract.KEYPOINT_NAME, ["heatmaps", "boxes"], ["joints"], "decode",
        domain="TRT", plugin_version="1", plugin_namespace="",
    )  # fmt: skip
    value, real = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [value("heatmaps", real, ["r", "k", "s", "s"]), value("boxes", real, ["r", 4])]
    graph = helper.make_graph([node], "g", inputs, [value("joints", real, ["r", "k", 3])])
    opsets = [helper.make_opsetid("", request.param), helper.make_opsetid("TRT", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString() + function_file())
    return lambda heatmaps, boxes: session.run(None, {"heatmaps": heatmaps, "boxes": boxes})[0]


@pytest.mark.parametrize("size", [56, 28, 2])
@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_keypoints_by_the_specification(rng, decode, boxes, size):
    boxes = np.array(boxes, np.float32)
    heatmaps = rng.normal(0, 1, (len(boxes), 5, size, size)).astype(np.float32)
    np.testing.assert_allclose(decode(heatmaps, boxes), by_numpy(heatmaps, boxes), atol=1e-4)


def test_keypoints_of_no_boxes_and_of_boxes_with_nan_and_infinity(rng, decode):
    heatmaps = rng.normal(0, 1, (2, 5, 56, 56)).astype(np.float32)
    assert decode(heatmaps[:0], np.zeros((0, 4), np.float32)).shape == (0, 5, 3)
    found = decode(heatmaps, np.array([[np.nan, 0, 5, 5], [3, 4, -4, -np.inf]], np.float32))
    assert np.isfinite(found[0, :, 1:]).all()
    np.testing.assert_array_equal(found[1, :, :2], [[3.5, 4.5]] * 5)
