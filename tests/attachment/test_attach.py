"""Post-processing attached to other toolkits' files."""

import json
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision

from trt_pose import ExportError, PosePredictor, Poses, UsageError, open_runner
from trt_pose.attachment.attach import AttachOptions, attach
from trt_pose.choices import DetectionOutputFormatMode as Format, ExportTargetBackend
from trt_pose.cli import main
from trt_pose.inspection import inspect
from trt_pose.operators.selection import Selection

from .. import reference

SIZE, ANCHORS = 160, 100


class Ultralytics(torch.nn.Module):
    """A network with the output of a YOLOv8 pose export: (B, 5 + 3J, A), centre and size."""

    def __init__(self, joints=17):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 5 + 3 * joints, 16, 16)
        cell = torch.arange(ANCHORS)
        self.register_buffer("centers", torch.stack([cell % 10, cell // 10]) * 16.0 + 8.0)

    def forward(self, images):
        y = self.conv(images).flatten(2)
        box = [y[:, :2] * 20 + self.centers, 20 + y[:, 2:4].abs() * 60]
        scores = ((y[:, 4:5] - y[:, 4:5].mean(dim=2, keepdim=True)) * 20).sigmoid()
        return torch.cat([*box, scores, y[:, 5:] * 50], dim=1)


class Decoded(torch.nn.Module):
    """The same candidates as separate tensors, as YOLO-NAS-Pose exports without NMS give them."""

    def __init__(self, apart):
        super().__init__()
        self.network, self.apart = Ultralytics(), apart

    def forward(self, images):
        rows = self.network(images).transpose(1, 2)
        half = rows[..., 2:4] * 0.5
        joints = rows[..., 5:].reshape(rows.shape[0], ANCHORS, 17, 3)
        boxes = torch.cat([rows[..., :2] - half, rows[..., :2] + half], dim=2)
        if self.apart:
            return boxes, rows[..., 4:5], joints[..., :2], joints[..., 2]
        return boxes, rows[..., 4:5], joints


OUTPUTS = {"yolov8-pose": ["output0"], "decoded": ["b", "s", "j"], "yolo-nas-pose": ["b", "s", "xy", "c"]}


def write(path, head, dynamic=False, opset=17, size=SIZE, image="images", outputs=None, weights_as_inputs=False):
    model = Ultralytics() if head == "yolov8-pose" else Decoded(apart=head == "yolo-nas-pose")
    names = [image, *(outputs or OUTPUTS[head])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(2 if dynamic else 1, 3, size, size),), path, dynamo=False, opset_version=opset,
            input_names=names[:1], output_names=names[1:],
            dynamic_axes={name: {0: "n"} for name in names} if dynamic else None,
            keep_initializers_as_inputs=weights_as_inputs,
        )  # fmt: skip
    return path


def thresholds(spec):
    kept = spec.output
    return kept.confidence_threshold, kept.nms_threshold, kept.num_pre_nms_predictions, kept.max_predictions_per_image


def candidates(pixels):
    """Boxes, scores, joints of every anchor, by the network alone: pixels (B, 3, H, W) uint8."""
    with torch.inference_mode():
        boxes, scores, joints = Decoded(apart=False)(torch.from_numpy(pixels).float() / 255)
    return boxes.numpy(), scores.numpy(), joints.numpy()


@pytest.mark.parametrize("head", OUTPUTS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["b1", "dynamic"])
@pytest.mark.parametrize("flat", [False, True], ids=["batch", "flat"])
def test_any_head_in_onnx_runtime(tmp_path, head, dynamic, flat, rng):
    source = write(tmp_path / "their.onnx", head, dynamic)
    layout = Format.FLAT_FORMAT if flat else Format.BATCH_FORMAT
    options = AttachOptions(head=head, selection=Selection(0.4, 0.5, 80, 20), layout=layout)
    spec = attach(source, tmp_path / "ours.onnx", options)
    pixels = rng.integers(0, 256, (3 if dynamic else 1, 3, SIZE, SIZE), dtype=np.uint8)
    with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
        found = runner.run({"input": pixels})
    seen = pixels[:, ::-1].copy() if head == "yolo-nas-pose" else pixels  # YOLO-NAS-Pose networks take BGR
    want = reference.pose_nms(*candidates(seen), 0.4, 0.5, 80, 20)  # type: ignore[call-arg]
    for image in range(len(pixels)):
        got = Poses.from_outputs(found, spec, image)
        count = int(want[0][image, 0])
        assert len(got) == count > 2
        np.testing.assert_allclose(got.boxes, want[1][image, :count], atol=1e-3)
        np.testing.assert_allclose(got.scores, want[2][image, :count], atol=1e-5)
        np.testing.assert_allclose(got.joints, want[3][image, :count], atol=1e-3)


class MMDeploy(torch.nn.Module):
    """The same people as MMDeploy's files give them: without overlaps, BGR in 0..255; as many as there are, or 20."""

    def __init__(self, rows=None, joined=False):
        super().__init__()
        self.network, self.rows, self.joined = Decoded(apart=False), rows, joined

    def forward(self, images):
        boxes, scores, joints = self.network(images.flip(1) / 255)
        if self.rows is None:
            kept = torchvision.ops.nms(boxes[0], scores[0, :, 0], 0.5)
        else:
            kept = scores[0, :, 0].argsort(descending=True)[: self.rows]
        dets = torch.cat([boxes, scores], dim=2)[:, kept]
        if self.joined:
            return torch.cat([dets, dets[..., :1] * 0, joints[:, kept].flatten(2)], dim=2)
        return dets, joints[:, kept]


def write_mmdeploy(path, rows=None, joined=False):
    axes = {"dets": {1: "num"}, "keypoints": {1: "num"}} if not joined else {"dets": {1: "num"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            MMDeploy(rows, joined).eval(), (torch.zeros(1, 3, SIZE, SIZE),), path, dynamo=False, opset_version=17,
            input_names=["input"], output_names=list(axes), dynamic_axes=None if rows else axes,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("rows", [None, 20])
@pytest.mark.parametrize("layout", [Format.BATCH_FORMAT, Format.FLAT_FORMAT])
def test_files_of_mmdeploy(tmp_path, rng, rows, layout):
    """The number of rows is open, or fixed at 20. At a threshold of 1 no person is left."""
    source = write_mmdeploy(tmp_path / "rtmo.onnx", rows)
    assert inspect(source).heads == ("mmdeploy-pose",)
    pixels = rng.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    boxes, scores, joints = candidates(pixels)
    for confidence in (0.4, 1.0):
        options = AttachOptions(selection=Selection(confidence, 0.7, 80, 15), layout=layout)
        spec = attach(source, tmp_path / "ours.onnx", options)
        assert (spec.input.normalization.channels, spec.input.pad_value) == ("BGR", 114)
        with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
            got = Poses.from_outputs(runner.run({"input": pixels}), spec)
        if rows is None:
            want = reference.pose_nms(boxes, scores, joints, confidence, 0.5, ANCHORS, 15)  # type: ignore[call-arg]
            expected = [array[0, : int(want[0][0, 0])] for array in want[1:]]
        else:  # rows that fill the output up may repeat others, so they are suppressed again
            best = np.argsort(-scores[0, :, 0], kind="stable")[:20]
            given = (boxes[:, best], scores[:, best], joints[:, best])
            want = reference.pose_nms(*given, confidence, 0.7, 20, 15)  # type: ignore[call-arg]
            expected = [array[0, : int(want[0][0, 0])] for array in want[1:]]
        assert len(got) == len(expected[0]) == (0 if confidence == 1.0 else len(got))
        for found, wanted in zip((got.boxes, got.scores, got.joints), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("dynamic", [False, True], ids=["b1", "dynamic"])
def test_the_batch_format_of_super_gradients(tmp_path, rng, dynamic):
    """Its rows past the count hold candidates that were suppressed."""

    class Batch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Decoded(apart=False)

        def forward(self, images):
            boxes, scores, joints = self.network(images)
            count = (scores > 0.6).sum(dim=1)
            rows = scores.argsort(dim=1, descending=True)
            place = rows.expand(-1, -1, 4), rows[..., None].expand(-1, -1, 17, 3)
            return count, boxes.gather(1, place[0]), scores.gather(1, rows)[..., 0], joints.gather(1, place[1])

    names = ["input", "n", "boxes", "scores", "joints"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Batch().eval(), (torch.zeros(2 if dynamic else 1, 3, SIZE, SIZE),), tmp_path / "sg.onnx", dynamo=False,
            opset_version=17, input_names=names[:1], output_names=names[1:],
            dynamic_axes={name: {0: "n"} for name in names} if dynamic else None,
        )  # fmt: skip
    assert inspect(tmp_path / "sg.onnx").heads == ("yolo-nas-pose-batch",)
    pixels = rng.integers(0, 256, (3 if dynamic else 1, 3, SIZE, SIZE), dtype=np.uint8)
    boxes, scores, joints = candidates(pixels[:, ::-1].copy())  # it takes BGR
    for target in ExportTargetBackend:
        options = AttachOptions(selection=Selection(0.4, 0.5, 100, 100), target=target)
        spec = attach(tmp_path / "sg.onnx", tmp_path / "ours.onnx", options)
        with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
            found = runner.run({"input": pixels})
        for image in range(len(pixels)):
            got, best = Poses.from_outputs(found, spec, image), np.argsort(-scores[image, :, 0], kind="stable")
            best = best[scores[image, best, 0] > 0.6]
            assert len(got) == len(best) > 2
            np.testing.assert_allclose(got.boxes, boxes[image, best], atol=1e-3)
            np.testing.assert_allclose(got.joints, joints[image, best], atol=1e-3)


def test_a_file_of_any_size_gets_the_size_of_its_metadata(tmp_path, rng):
    """As Ultralytics writes them with dynamic=True."""
    fixed, open_ = write(tmp_path / "fixed.onnx", "yolov8-pose", dynamic=True), tmp_path / "open.onnx"
    proto = onnx.load(fixed)
    for side in (
        *proto.graph.input[0].type.tensor_type.shape.dim[2:],
        proto.graph.output[0].type.tensor_type.shape.dim[2],
    ):
        side.dim_param = "side"
    del proto.graph.value_info[:]
    known = {"task": "pose", "stride": "16", "names": "{0: 'person'}", "kpt_shape": "[17, 3]"}
    pixels = rng.integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    found = {}
    for source, size in ((fixed, f"[{SIZE}, {SIZE}]"), (open_, f"[{SIZE}, {SIZE}]")):
        onnx.helper.set_model_props(proto, known | {"imgsz": size})
        onnx.save(proto, open_)
        assert inspect(source).heads == ("yolov8-pose",)
        spec = attach(source, tmp_path / "ours.onnx", AttachOptions())
        assert (spec.input.height, spec.input.width, spec.input.batch) == (SIZE, SIZE, None)
        with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
            found[source] = runner.run({"input": pixels})
    for name, array in found[fixed].items():
        np.testing.assert_array_equal(array, found[open_][name])
    for size, words in (
        ("[90, 90]", "does not run with images of 90 x 90"),
        ("[0, 7]", "Export it with a fixed image"),
    ):
        onnx.helper.set_model_props(proto, known | {"imgsz": size})
        onnx.save(proto, open_)
        with pytest.raises(ExportError, match=words):
            attach(open_, tmp_path / "ours.onnx", AttachOptions())


def test_open_rows_are_for_onnx_runtime(tmp_path):
    source = write_mmdeploy(tmp_path / "rtmo.onnx")
    with pytest.raises(ExportError, match="dets has as many rows as the file finds, which TensorRT cannot express"):
        attach(source, tmp_path / "o.onnx", AttachOptions(target=ExportTargetBackend.TENSORRT))
    attach(write_mmdeploy(tmp_path / "fixed.onnx", 20), tmp_path / "o.onnx",
           AttachOptions(target=ExportTargetBackend.TENSORRT))  # fmt: skip
    write_mmdeploy(tmp_path / "rows.onnx", joined=True)  # rows of Ultralytics, whose number is always fixed
    with pytest.raises(ExportError, match="the shape of dets is not fixed"):
        attach(tmp_path / "rows.onnx", tmp_path / "o.onnx", AttachOptions(head="yolo-end2end-pose"))
    assert inspect(tmp_path / "rows.onnx").heads == ()


@pytest.mark.parametrize("dynamic", [False, True], ids=["b1", "dynamic"])
def test_the_plugin_node_and_the_kernel(tmp_path, dynamic, rng, kernel_on_cpu):
    source = write(tmp_path / "their.onnx", "yolov8-pose", dynamic)
    options = AttachOptions(selection=Selection(0.4, 0.5, 80, 20), target=ExportTargetBackend.TENSORRT)
    spec = attach(source, tmp_path / "ours.onnx", options)
    assert spec.plugins_required == ("PoseNMS_TRT",)
    model = onnx.load(tmp_path / "ours.onnx")
    (node,) = [node for node in model.graph.node if node.op_type == "PoseNMS_TRT"]
    heads = onnx.utils.Extractor(model).extract_model(["input"], list(node.input))
    pixels = rng.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    session = onnxruntime.InferenceSession(heads.SerializeToString(), providers=["CPUExecutionProvider"])
    got = kernel_on_cpu(*session.run(list(node.input), {"input": pixels}), 0.4, 0.5, 80, 20)
    for expected, found in zip(reference.pose_nms(*candidates(pixels), 0.4, 0.5, 80, 20), got, strict=True):  # type: ignore[call-arg]
        np.testing.assert_allclose(expected, found, atol=1e-3)


def test_the_file_predicts_with_its_own_letterbox(tmp_path, photograph):
    write(tmp_path / "their.onnx", "yolov8-pose")
    attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(selection=Selection(0.4, 0.5, 100, 20)))
    with PosePredictor(tmp_path / "ours.onnx", providers=["cpu"]) as predictor:
        assert (predictor.spec.input.padding, predictor.spec.input.pad_value) == ("center", 114)
        assert predictor.spec.skeleton.names[0] == "nose"
        wide = np.full((100, 200, 3), 90, np.uint8)
        assert len(predictor.predict(photograph).poses) > 0
        assert len(predictor.predict(wide).poses.joints[0]) == 17


@pytest.mark.parametrize("image", ["images", "input"])
def test_a_float_input_may_stay(tmp_path, rng, image):
    write(tmp_path / "their.onnx", "yolov8-pose", image=image)
    options = AttachOptions(uint8_input=False, selection=Selection(0.4, 0.5, 80, 20))
    spec = attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", options)
    assert (spec.input.dtype, spec.input.normalized_in_graph) == ("float32", False)
    pixels = rng.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
        found = runner.run({"input": pixels.astype(np.float32) / np.float32(255)})
    assert found["num_predictions"][0, 0] == reference.pose_nms(*candidates(pixels), 0.4, 0.5, 80, 20)[0][0, 0] > 0  # type: ignore[call-arg]


@pytest.mark.parametrize("target", ExportTargetBackend)
@pytest.mark.parametrize(
    "options",
    [
        {"image": "input"},
        {"image": "input", "outputs": ["num_predictions"]},
        {"image": "tail/in0", "outputs": ["pred_boxes"]},
        {"weights_as_inputs": True},
    ],
    ids=["input", "our names", "inner names", "weights as inputs"],
)
def test_names_that_are_also_ours(tmp_path, target, options, rng):
    write(tmp_path / "their.onnx", "yolov8-pose", **options)
    attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(target=target))
    model = onnx.load(tmp_path / "ours.onnx")
    assert [item.name for item in model.graph.input] == ["input"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    if target is ExportTargetBackend.ONNXRUNTIME:
        with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
            pixels = rng.integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
            found = runner.run({"input": pixels})
            want = reference.pose_nms(*candidates(pixels), *thresholds(runner.spec))  # type: ignore[call-arg]
            assert found["num_predictions"][0, 0] == want[0][0, 0] > 0


def test_a_file_with_our_plugin_inside_already(tmp_path):
    write(tmp_path / "their.onnx", "yolov8-pose")
    model = onnx.load(tmp_path / "their.onnx")
    model.opset_import.append(onnx.helper.make_opsetid("TRT", 2))
    onnx.save(model, tmp_path / "their.onnx")
    attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(target=ExportTargetBackend.TENSORRT))
    ours = onnx.load(tmp_path / "ours.onnx")
    assert [item.domain for item in ours.opset_import].count("TRT") == 1
    assert [node.op_type for node in ours.graph.node].count("PoseNMS_TRT") == 1


def test_tensors_by_name(tmp_path):
    write(tmp_path / "their.onnx", "decoded")
    options = AttachOptions(head="decoded", tensors=["b", "s", "j"])
    assert attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", options).output.names[0] == "num_predictions"


def test_on_the_command_line(tmp_path, capsys):
    write(tmp_path / "their.onnx", "yolov8-pose")
    with pytest.raises(SystemExit) as stopped:
        main(["attach", str(tmp_path / "their.onnx"), "-o", str(tmp_path / "ours.onnx"), "--conf", "0.3", "--json"])
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out)["output"]["confidence_threshold"] == 0.3


@pytest.mark.parametrize(
    ("head", "options", "words"),
    [
        ("decoded", {"head": "yolov8-pose"}, "takes 1 tensors, got b, s, j"),
        ("decoded", {"tensors": ["b", "s"]}, "are not the outputs of a known head"),
        ("yolov8-pose", {"head": "decoded"}, "takes 3 tensors"),
        ("yolo-nas-pose", {"head": "decoded", "tensors": ["b", "s", "xy"]}, "are not the outputs of head decoded"),
        ("decoded", {"head": "decoded", "tensors": ["b", "s", "nothing"]}, "takes 3 tensors, got b, s, nothing"),
    ],
)
def test_heads_that_do_not_fit(tmp_path, head, options, words):
    write(tmp_path / "their.onnx", head)
    with pytest.raises(ExportError, match=words):
        attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(**options))
    assert not (tmp_path / "ours.onnx").exists()


def test_files_that_cannot_be_attached_to(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    write(tmp_path / "old.onnx", "yolov8-pose", opset=10)
    for name, words in (("missing.onnx", "no such file"), ("text.onnx", "not a readable"), ("old.onnx", "opset 10")):
        with pytest.raises(ExportError, match=words):
            attach(tmp_path / name, tmp_path / "ours.onnx", AttachOptions())
    with pytest.raises(UsageError, match="yolov8-pose"):
        attach(tmp_path / "old.onnx", tmp_path / "ours.onnx", AttachOptions(head="openpose"))
    assert not (tmp_path / "ours.onnx").exists()


METADATA = {"task": "pose", "stride": "32", "names": "{0: 'person'}", "kpt_shape": "[17, 3]", "imgsz": "[160, 160]"}


def write_rows(path, rows, metadata=None, opset=17, dtype=np.float32, shuffle=False):
    """Writes a file that gives ``rows`` for every image, with metadata of Ultralytics."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        onnx.helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        onnx.helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    graph = onnx.helper.make_graph(
        nodes[::-1] if shuffle else nodes,
        "their",
        [onnx.helper.make_tensor_value_info("images", kind, [1, 3, SIZE, SIZE])],
        [onnx.helper.make_tensor_value_info("output0", kind, rows.shape)],
        [
            onnx.numpy_helper.from_array(rows.astype(dtype), "rows"),
            onnx.numpy_helper.from_array(np.zeros((), dtype), "zero"),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)
    return path


def people(rng, number, joints, values):
    """Returns boxes xyxy (N, 4) apart from one another, scores (N,) and joints (N, J, values)."""
    corner = np.stack([np.arange(number) * 15.0, np.full(number, 10.0)], axis=1)
    boxes = np.concatenate([corner, corner + 12], axis=1)
    return boxes, np.linspace(0.9, 0.5, number), rng.uniform(0, 1, (number, joints, values))


def as_columns(boxes, scores, joints):
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([center, size, scores[:, None], joints.reshape(len(boxes), -1)], axis=1)
    filler = np.zeros((80 - len(rows), rows.shape[1]))
    return np.concatenate([rows, filler]).T[None]


def as_rows(boxes, scores, joints):
    columns = [boxes, scores[:, None], np.zeros((len(boxes), 1)), joints.reshape(len(boxes), -1)]
    rows = np.concatenate(columns, axis=1)
    return np.concatenate([rows, np.zeros((80 - len(rows), rows.shape[1]))])[None]


def found_in(path):
    with open_runner(path, providers=["cpu"]) as runner:
        image = np.zeros((1, 3, SIZE, SIZE), runner.inputs["input"].dtype)
        return Poses.from_outputs(runner.run({"input": image}), runner.spec)


@pytest.mark.parametrize("layout", [as_columns, as_rows])
@pytest.mark.parametrize(("joints", "values"), [(17, 3), (9, 2), (6, 3), (21, 2)])
def test_the_metadata_says_how_joints_are_written(tmp_path, rng, layout, joints, values):
    """The outputs of 9 joints of two numbers and of 6 of three are of one shape."""
    boxes, scores, points = people(rng, 5, joints, values)
    metadata = {**METADATA, "kpt_shape": f"[{joints}, {values}]"}
    write_rows(tmp_path / "their.onnx", layout(boxes, scores, points), metadata)
    spec = attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions())
    found = found_in(tmp_path / "ours.onnx")
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_allclose(found.joints[..., :values], points, atol=1e-6)
    assert values == 3 or (found.joints[..., 2] == 1).all()
    assert (spec.input.padding, spec.input.pad_value, spec.skeleton.num_joints) == ("center", 114, joints)


def test_rows_without_overlaps_are_not_suppressed_again(tmp_path, rng):
    boxes, scores, points = people(rng, 4, 17, 3)
    boxes[:] = boxes[0]
    write_rows(tmp_path / "their.onnx", as_rows(boxes, scores, points), {**METADATA, "end2end": "True"})
    spec = attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(selection=Selection(0.6, 0.5, 50, 50)))
    np.testing.assert_allclose(found_in(tmp_path / "ours.onnx").scores, scores[scores > 0.6], atol=1e-6)
    assert spec.output.nms_threshold == 1


def test_without_metadata_two_readings_are_refused(tmp_path, rng):
    boxes, scores, points = people(rng, 5, 9, 2)
    their, ours = write_rows(tmp_path / "their.onnx", as_columns(boxes, scores, points)), tmp_path / "ours.onnx"
    with pytest.raises(
        ExportError, match=r"may be the outputs of yolov8-pose \(6 joints\), yolov8-pose-xy \(9 joints\)"
    ):
        attach(their, ours, AttachOptions())
    attach(their, ours, AttachOptions(head="yolov8-pose-xy"))
    np.testing.assert_allclose(found_in(ours).points, points, atol=1e-6)


def test_the_joint_names_of_the_metadata(tmp_path, rng):
    rows = as_columns(*people(rng, 3, 3, 3))
    metadata = {**METADATA, "kpt_shape": "[3, 3]", "kpt_names": "{0: ['tip', 'left_edge', 'right_edge']}"}
    spec = attach(write_rows(tmp_path / "a.onnx", rows, metadata), tmp_path / "b.onnx", AttachOptions())
    assert spec.skeleton.names == ("tip", "left_edge", "right_edge")
    assert spec.skeleton.flip_pairs == ((1, 2), (2, 1)) or spec.skeleton.flip_pairs == ((1, 2),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "detect"}, "task 'detect'"),
        ({"names": "{0: 'cat', 1: 'dog'}"}, r"2 classes \(cat, dog\) with 17 joints each"),
        ({"kpt_shape": "[17, 4]"}, r"kpt_shape '\[17, 4\]'"),
        ({"kpt_shape": "[" * 5000}, "kpt_shape"),
        ({"kpt_shape": "__import__('os').abort()"}, "kpt_shape"),
        ({"kpt_shape": "[True, 3]"}, "kpt_shape"),
        ({"kpt_shape": "[5, 3]"}, "with the 5 joints of 3 numbers that its metadata says"),
    ],
)
def test_metadata_that_cannot_be_followed(tmp_path, rng, change, words):
    rows = as_columns(*people(rng, 3, 17, 3))
    their = write_rows(tmp_path / "their.onnx", rows, {**METADATA, **change})
    with pytest.raises(ExportError, match=words):
        attach(their, tmp_path / "ours.onnx", AttachOptions())
    assert not (tmp_path / "ours.onnx").exists()


@pytest.mark.parametrize("target", ExportTargetBackend)
@pytest.mark.parametrize("uint8", [True, False])
def test_half_precision_files_and_nodes_in_any_order(tmp_path, rng, target, uint8):
    boxes, scores, points = people(rng, 5, 17, 3)
    their = write_rows(
        tmp_path / "their.onnx", as_columns(boxes, scores, points), METADATA, dtype=np.float16, shuffle=True
    )
    spec = attach(their, tmp_path / "ours.onnx", AttachOptions(target=target, uint8_input=uint8))
    assert spec.input.dtype == ("uint8" if uint8 else "float32")
    np.testing.assert_allclose(found_in(tmp_path / "ours.onnx").boxes, boxes, atol=0.1)


@pytest.mark.parametrize("target", ExportTargetBackend)
@pytest.mark.parametrize("opset", [11, 13, 15, 18, 20, 21, 23, 26])
def test_every_operator_set_that_onnx_runtime_opens(tmp_path, rng, opset, target):
    boxes, scores, points = people(rng, 5, 17, 3)
    write_rows(tmp_path / "their.onnx", as_columns(boxes, scores, points), METADATA, opset=opset)
    try:
        onnxruntime.InferenceSession(str(tmp_path / "their.onnx"), providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not open it: {type(error).__name__}")
    attach(tmp_path / "their.onnx", tmp_path / "ours.onnx", AttachOptions(target=target))
    np.testing.assert_allclose(found_in(tmp_path / "ours.onnx").boxes, boxes, atol=1e-4)
