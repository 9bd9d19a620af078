"""Keypoint R-CNN for TensorRT: the file with plugin nodes finds what torchvision's own model finds."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch

from trt_pose import ExportError, PosePredictor, UsageError, open_runner
from trt_pose.builder.build import build_engine
from trt_pose.builder.options import BuildOptions
from trt_pose.cli import main
from trt_pose.export.plugin_nodes import DetectionNms, KeypointDecode
from trt_pose.export.roi_pool import RoiPool
from trt_pose.graphs.file import read_spec
from trt_pose.operators.contract import NmsFields
from trt_pose.quantization import QuantizeOptions, quantize
from trt_pose.quantization.network import Network

from ..plugins.test_detection_nms_kernel import objects
from ..plugins.test_keypoint_decode import BOXES, by_numpy
from ..rcnn_fixtures import JOINTS, LIMIT
from ..reference import detection_nms
from ..trt.test_plugins import needs_rtx

HEIGHT, WIDTH = 160, 256
SMALL = {
    "engine": "tensorrt", "input_image_shape": (64, 96), "max_predictions_per_image": 5, "verification": False
}  # fmt: skip


def with_proposals(network, number):
    """A copy of a network with fewer proposals."""
    network = copy.deepcopy(network)
    network.rpn._pre_nms_top_n = network.rpn._post_nms_top_n = {"training": number, "testing": number}
    return network


def both_kinds(network):
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.bias[1] += 2.5
    return network


@pytest.fixture(scope="module")
def model(rcnn):
    """With 200 proposals instead of 1,000, to be quick, and with people of both kinds."""
    return both_kinds(with_proposals(rcnn, 200))


@pytest.fixture(scope="module")
def truth(rcnn_truth):
    return both_kinds(with_proposals(rcnn_truth, 200))


@pytest.fixture(scope="module")
def fixed(model, tmp_path_factory):
    """The file for two images of 160 x 256, compared with torchvision by the export itself."""
    path = tmp_path_factory.mktemp("fixed") / "m.onnx"
    return path, model.export(path, engine="tensorrt", input_image_shape=(HEIGHT, WIDTH), batch_size=2)


def crops(photograph, *corners):
    """Parts of the photograph, (B, 3, 160, 256) uint8."""
    parts = [photograph[top : top + HEIGHT, left : left + WIDTH] for top, left in corners]
    return np.ascontiguousarray(np.stack(parts).transpose(0, 3, 1, 2))


def by_torchvision(network, images, **heads):
    network = copy.deepcopy(network)
    for name, value in heads.items():
        setattr(network.roi_heads, name, value)
    with torch.inference_mode():
        return [
            {name: value.numpy() for name, value in found.items()}
            for found in network([torch.from_numpy(image).float() / 255 for image in images])
        ]


def run(file, images):
    with open_runner(file, providers=["cpu"]) as runner:
        return runner.run({"input": images})


def assert_same(outputs, wanted):
    """People in the same order: boxes to 0.05 px, joints to 0.1 px but for ties of the heatmap; zeros behind them."""
    boxes, scores, joints = (outputs[f"pred_{name}"] for name in ("boxes", "scores", "joints"))
    assert outputs["num_predictions"].tolist() == [[len(want["boxes"])] for want in wanted]
    for place, want in enumerate(wanted):
        count = len(want["boxes"])
        np.testing.assert_allclose(boxes[place, :count], want["boxes"], atol=0.05)
        np.testing.assert_allclose(scores[place, :count], want["scores"], atol=1e-4)
        apart = np.abs(joints[place, :count, :, :2] - want["keypoints"][..., :2]).max(axis=2)
        assert (apart < 0.1).mean() > 0.97 if count else True
        confidence = 1 / (1 + np.exp(-want["keypoints_scores"]))
        np.testing.assert_allclose(joints[place, :count, :, 2], confidence, atol=1e-3)
        assert not boxes[place, count:].any()
        assert not scores[place, count:].any()
        assert not joints[place, count:].any()


def with_threshold(path, threshold):
    """The bytes of the file with another threshold of the people's scores."""
    proto = onnx.load(path)
    node = [node for node in proto.graph.node if node.op_type == "DetectionNMS_TRT"][-1]
    (value,) = (item for item in node.attribute if item.name == "score_threshold")
    value.f = threshold
    return proto.SerializeToString()


def test_two_images_as_by_torchvision(fixed, truth, photograph):
    images = crops(photograph, (0, 0), (100, 200))
    wanted = by_torchvision(truth, images)
    assert min(len(want["boxes"]) for want in wanted) > 5
    assert_same(run(fixed[0], images), wanted)


@pytest.mark.parametrize(
    ("threshold", "counts"), [(0.05, (LIMIT, LIMIT)), (0.999, (0, 0))], ids=["every row", "no row"]
)
def test_as_many_people_as_rows_and_no_people(fixed, truth, photograph, threshold, counts):
    images = crops(photograph, (0, 0), (300, 100))
    wanted = by_torchvision(truth, images, score_thresh=threshold)
    assert tuple(len(want["boxes"]) for want in wanted) == counts
    assert not counts[0] or {*wanted[0]["labels"]} == {1, 2}  # each kind is suppressed by itself
    assert_same(run(with_threshold(fixed[0], threshold), images), wanted)


def test_one_image_and_fewer_proposals_than_people(model, truth, photograph, tmp_path):
    """Two proposals: of the eight rows four stay empty at least."""
    network = with_proposals(truth, 2)
    with_proposals(model, 2).export(
        tmp_path / "m.onnx",
        engine="tensorrt",
        input_image_shape=(HEIGHT, WIDTH),
        input_image_dtype="float32",
        confidence_threshold=0.3,
        verification=False,
    )
    images = crops(photograph, (0, 0))
    wanted = by_torchvision(network, images, score_thresh=0.3)
    assert 0 < len(wanted[0]["boxes"]) <= 4  # of each class
    assert_same(run(tmp_path / "m.onnx", images.astype(np.float32)), wanted)


def test_what_the_file_says_of_itself(fixed):
    path, result = fixed
    spec = result.spec
    assert (spec.task, spec.output.format, spec.input.batch) == ("pose", "batch", 2)
    assert (spec.input.resize, spec.input.pad_value, spec.input.resize_to) == ("longest_side", 114, (HEIGHT, WIDTH))
    assert spec.input.normalization.mean == pytest.approx((123.675, 116.28, 103.53))
    assert spec.plugins_required == ("DetectionNMS_TRT", "KeypointDecode_TRT")
    assert "plugin nodes DetectionNMS_TRT and KeypointDecode_TRT" in str(result)
    with open_runner(path, providers=["cpu"]) as runner:
        assert runner.inputs["input"].shape == (2, 3, HEIGHT, WIDTH)
        shapes = {
            name: value.shape
            for name, value in runner.run({"input": np.zeros((2, 3, HEIGHT, WIDTH), np.uint8)}).items()
        }
    assert shapes["pred_joints"] == (2, LIMIT, JOINTS, 3)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"NonMaxSuppression", "RoiAlign", "NonZero", "If", "Loop", "Shape"}  # no shape depends on data


def test_a_predictor_finds_the_people_of_any_picture(fixed, model, photograph):
    """Letterboxed to the size of the file; torch's own resize of the picture differs, its size here does not."""
    picture = photograph[:HEIGHT, :WIDTH]
    with PosePredictor(fixed[0], providers=["cpu"]) as predictor:
        found, again = predictor.predict([picture, np.ascontiguousarray(photograph[:200, :150])], batch_size=2)
    want = model.predict(picture).poses
    assert len(found.poses) == len(want) > 5
    assert len(again.poses) > 5
    np.testing.assert_allclose(found.poses.boxes, want.boxes, atol=0.05)


def test_the_network_ends_where_its_decodes_begin(fixed):
    """Proposals and people are decoded in FP32, although layers follow them: their boxes are positions."""
    network = Network(onnx.load(fixed[0]))
    kinds = {node.op for node in network.members()}
    assert not kinds & {"TopK", "DetectionNMS_TRT", "KeypointDecode_TRT", "Exp", "Log", "Softmax", "GatherElements"}
    assert sum(layer.weight is not None for layer in network.layers) == 84 + 1 + 4  # Conv, ConvTranspose, Gemm
    assert len(network.positions) == 2
    assert len(network.border) == 2 * 5 + 2 + 1  # RPN, box head, keypoint head


@pytest.fixture(scope="module")
def small_file(model, tmp_path_factory):
    """The file for one image of 64 x 96, with 40 proposals and at most 5 people."""
    path = tmp_path_factory.mktemp("small") / "m.onnx"
    with_proposals(model, 40).export(path, **SMALL)
    return path


@pytest.fixture(scope="module")
def small_int8(small_file, photograph):
    """The same in INT8 and FP16: the file, its report and the image it was calibrated on."""
    image = np.ascontiguousarray(photograph[None, :64, :96].transpose(0, 3, 1, 2))
    path = small_file.with_name("int8.onnx")
    return path, quantize(small_file, path, [image], QuantizeOptions(precision="int8+fp16")), image


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8+fp16"])
def test_rtx_builds_it_ahead_of_time(small_file, small_int8, precision, tmp_path):
    """A network of 59 million parameters: each number has the bytes of its precision."""
    options = BuildOptions(flavor="tensorrt_rtx", compute_capabilities=((8, 6),))
    file, asked = (small_int8[0], None) if precision == "int8+fp16" else (small_file, precision)
    sidecar = build_engine(file, tmp_path / "m.engine", asked, None, options)
    assert sidecar.spec.precision == precision
    assert sidecar.plugins == ("DetectionNMS_TRT", "KeypointDecode_TRT")
    assert sidecar.plugin
    assert set(sidecar.elements) == {"input", "num_predictions", "pred_boxes", "pred_scores", "pred_joints"}
    least, most = {"fp32": (230e6, 260e6), "fp16": (115e6, 150e6), "int8+fp16": (58e6, 100e6)}[precision]
    assert least < sidecar.engine_bytes < most


@pytest.mark.slow
def test_int8_says_its_noise_at_the_positions_of_fp32(small_file, small_int8):
    path, report, image = small_int8
    assert report.int8_layers == report.layers == 110
    assert min(report.noise_db.values()) > 15
    made = onnx.load(path)
    assert read_spec(made).precision == "int8+fp16"
    typed = onnx.shape_inference.infer_shapes(made).graph.value_info
    types = {item.name: item.type.tensor_type.elem_type for item in typed}
    sampled = [node for node in made.graph.node if node.op_type == "GridSample"]
    assert len(sampled) == 2
    for node in sampled:
        assert {types.get(name, 1) for name in node.input} == {onnx.TensorProto.FLOAT}
    found, want = run(path, image), run(small_file, image)
    assert found["num_predictions"] > 0
    assert abs(found["num_predictions"].item() - want["num_predictions"].item()) <= 3


def test_the_check_compares_with_torchvision(model, tmp_path, monkeypatch):
    """A fault of our own graph is found, because the other side is torchvision's."""
    from trt_pose.export import fixed_rcnn

    monkeypatch.setattr(fixed_rcnn.RoiPool, "_stack", _shifted)
    with pytest.raises(ExportError, match="disagree"):
        model.export(tmp_path / "m.onnx", engine="tensorrt", input_image_shape=(HEIGHT, WIDTH))
    assert not list(tmp_path.iterdir())


STACK = RoiPool._stack


def _shifted(pool, features):
    return torch.roll(STACK(pool, features), 1, 3)


def test_pooling_as_by_torchvision(rng):
    from torchvision.ops import MultiScaleRoIAlign

    height, width = 192, 320
    sizes = [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
    features = [torch.from_numpy(rng.normal(0, 1, (2, 8, *size)).astype(np.float32)) for size in sizes]
    corners = rng.uniform(0, 1, (2, 200, 2)) * (width, height)
    opposite = np.minimum(corners + rng.uniform(0, 1, (2, 200, 2)) ** 3 * (width, height), (width, height))
    boxes = np.concatenate([corners, opposite], axis=2).astype(np.float32)
    boxes[0, :4] = [[0, 0, 0, 0], [0, 0, width, height], [width, height, width, height], [width - 1, 0, width, 3]]
    boxes = torch.from_numpy(boxes)
    for side, samples in ((7, 2), (14, 2), (7, 1)):
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], side, samples)
        levels = dict(zip("0123", features, strict=True))
        want = pool(levels, list(boxes), [(height, width)] * 2)
        found = RoiPool(pool, sizes, (4, 8, 16, 32))(levels, boxes)
        torch.testing.assert_close(found, want, atol=2e-4, rtol=0)
    with pytest.raises(UsageError, match="sampling_ratio"):
        RoiPool(MultiScaleRoIAlign(["0"], 7, -1), sizes[:1], (4,))


@pytest.mark.parametrize(
    ("anchors", "classes", "score", "limit"), [(300, 5, 0.3, 100), (60, 3, 0.0, 300), (9, 1, 1, 4)]
)
def test_nms_in_torch_is_that_of_the_operator(rng, anchors, classes, score, limit):
    boxes, scores = objects(rng, 2, anchors, classes)
    scores[0, 0] = np.nan
    found = DetectionNms.apply(*map(torch.from_numpy, (boxes, scores)), NmsFields(score, 0.5, limit, 200))
    for got, want in zip(found, detection_nms(boxes, scores, score, 0.5, 200, limit), strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_keypoints_in_torch_are_those_of_the_operator(rng, boxes):
    boxes = np.array(boxes, np.float32)
    heatmaps = rng.normal(0, 1, (len(boxes), 3, 56, 56)).astype(np.float32)
    found = KeypointDecode.apply(*map(torch.from_numpy, (heatmaps, boxes))).numpy()
    np.testing.assert_allclose(found, by_numpy(heatmaps, boxes), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_image_shape": (100, 96)}, "positive multiples of 32"),
        ({"batch_size": "dynamic"}, "batch_size is fixed"),
        ({"output_predictions_format": "flat"}, "it has no output_predictions_format"),
        ({"shortest_side": 800}, "it has no shortest_side"),
        ({"preprocessing": False}, "it has no preprocessing"),
        ({"max_predictions_per_image": 5000}, "its operators take 4096"),
        ({"batch_size": 64, "max_predictions_per_image": 2000}, "its operators take 1023"),
        ({"calibration_method": "entropy"}, "belong to quantization_mode"),
        ({"input_image_channels": 1}, "takes 3"),
    ],
    ids=str,
)
def test_options_that_such_a_file_lacks(model, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        model.export(tmp_path / "m.onnx", **{**SMALL, **options})
    assert not list(tmp_path.iterdir())


def test_what_the_memory_does_not_hold(model, tmp_path, monkeypatch):
    monkeypatch.setattr("trt_pose.limits.available_bytes", lambda: 10**9)
    with pytest.raises(UsageError, match=r"8 images of 200 proposals and 300 people: it needs 1\.9 GB"):
        model.export(tmp_path / "m.onnx", **{**SMALL, "batch_size": 8, "max_predictions_per_image": 300})


def test_networks_that_the_operators_do_not_take(model, tmp_path):
    for limits, words in (((5000, 1000), "rpn_pre_nms_top_n_test is 5000"), ((1000, 3841), "rpn_post_nms_top_n_test")):
        changed = copy.deepcopy(model)
        changed.rpn._pre_nms_top_n, changed.rpn._post_nms_top_n = ({"testing": limit} for limit in limits)
        with pytest.raises(UsageError, match=words):
            changed.export(tmp_path / "m.onnx", **SMALL)


def test_on_the_command_line(small_file, photo_path, tmp_path, capsys):
    path = str(small_file)
    for command in (
        ["predict", path, str(photo_path), "--json", str(tmp_path / "p.json"), "--provider", "cpu"],
        ["compare", path, path, "--images", str(photo_path), "--provider", "cpu"],
        ["inspect", path],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 0, capsys.readouterr().err
    (record,) = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert len(record["poses"]) == 5
