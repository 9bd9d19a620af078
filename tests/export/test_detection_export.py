"""Detection files: what ONNX Runtime gives, against torch and against loops in NumPy."""

import json
import warnings

import numpy as np
import onnx
import pytest
import torch

from trt_pose import EngineError, PosePredictor, RunnerError, UsageError, open_runner
from trt_pose.choices import Precision
from trt_pose.comparison import compare
from trt_pose.export.decode import DecodeDetections
from trt_pose.export.select import SelectDetections
from trt_pose.export.select_detection_trt import EfficientSelect
from trt_pose.graphs.surgery import extract_subgraph
from trt_pose.models.layers import BINS
from trt_pose.models.pp_yoloe.network import PPYoloE, Variant as PPVariant
from trt_pose.models.yolo_nas.network import Variant as NASVariant, YoloNAS
from trt_pose.operators.contract import NmsFields
from trt_pose.operators.selection import Selection
from trt_pose.quantization import QuantizeOptions, quantize
from trt_pose.results.detections import Detections
from trt_pose.results.pairing import compare_predictions
from trt_pose.runtime.ort import OnnxRunner

from .. import reference
from ..conftest import SMALL, TINY, slow_but_first
from ..keyed_weights import apply_keyed_weights
from ..trt.test_plugins import needs_rtx

CLASSES = 6
OPTIONS = {**SMALL, "confidence_threshold": 0.3}


def tiny(family):
    if family == "yolo_nas":
        model = YoloNAS("yolo_nas_s", CLASSES, NASVariant(TINY.body, 0.125))
    else:
        model = PPYoloE("ppyoloe_s", CLASSES, PPVariant(0.33, 0.125))
    model = apply_keyed_weights(model.eval())
    model.weights = "keyed"
    return model


@pytest.fixture(scope="module", params=slow_but_first(["yolo_nas", "ppyoloe"]))
def model(request):
    return tiny(request.param)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)


def by_loops(model, pixels, confidence, iou, candidates, limit):
    """Boxes, scores, classes of one image (3, H, W) uint8, by hand."""
    policy = model.processing.input.normalization
    image = pixels.astype(np.float64)[::-1] if policy.channels == "BGR" else pixels.astype(np.float64)
    image = (image - np.reshape(policy.mean, (3, 1, 1))) / np.reshape(policy.std, (3, 1, 1))
    with torch.inference_mode():
        heads = model(torch.from_numpy(image[None].astype(np.float32)))
        boxes, scores = (values[0].numpy() for values in DecodeDetections(model.strides, 128, 160)(heads))
    best = sorted(range(len(scores)), key=lambda anchor: (-scores[anchor].max(), anchor))[:candidates]
    kept = []
    for kind in range(scores.shape[1]):
        rows = reference.select(boxes[best], scores[best, kind], None, confidence, iou, candidates, candidates)
        kept += [(scores[best[row], kind], kind, best[row]) for row in rows]
    kept.sort(key=lambda item: -item[0])
    kept = kept[:limit]
    return boxes[[anchor for *_, anchor in kept]], [score for score, *_ in kept], [kind for _, kind, _ in kept]


@pytest.mark.parametrize(("batch", "flat"), [(1, False), (2, True), ("dynamic", False), ("dynamic", True)])
def test_onnx_equals_torch_and_loops(model, tmp_path, pixels, batch, flat):
    formats = "flat" if flat else "batch"
    result = model.export(tmp_path / "m.onnx", batch_size=batch, output_predictions_format=formats, **OPTIONS)
    assert result.spec.task == "detection"
    assert len(result.spec.class_names) == CLASSES
    count = 3 if batch == "dynamic" else batch
    with open_runner(tmp_path / "m.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels[:count]})
    if not flat:
        assert list(outputs) == ["num_predictions", "pred_boxes", "pred_scores", "pred_classes"]
        assert outputs["pred_classes"].dtype == np.int64
    for image in range(count):
        got = Detections.from_outputs(outputs, result.spec, image)
        boxes, scores, classes = by_loops(model, pixels[image], 0.3, model.processing.iou, 100, 100)
        want = Detections(boxes, np.array(scores, np.float32), np.array(classes), got.class_names)
        gap = compare_predictions(want, got)
        assert gap.matched == gap.first == gap.second > 3
        assert gap.px < 2e-2
        assert gap.score < 1e-4
        assert (np.diff(got.scores) <= 0).all()
    if not flat:
        for image in range(count):
            found = int(outputs["num_predictions"][image, 0])
            assert (outputs["pred_classes"][image, found:] == -1).all()
            assert not outputs["pred_boxes"][image, found:].any()
            assert not outputs["pred_scores"][image, found:].any()


def test_the_limit_cuts_by_score_not_by_class(model, tmp_path, pixels):
    options = {**OPTIONS, "confidence_threshold": 0.05}
    spec = model.export(tmp_path / "all.onnx", **options).spec
    model.export(tmp_path / "few.onnx", max_predictions_per_image=5, **options)
    found = []
    for name in ("all.onnx", "few.onnx"):
        with open_runner(tmp_path / name, providers=["cpu"]) as runner:
            found.append(Detections.from_outputs(runner.run({"input": pixels[:1]}), spec))
    assert len(found[0]) > len(found[1]) == 5
    np.testing.assert_array_equal(found[0].scores[:5], found[1].scores)


def test_an_object_may_have_several_classes(model, tmp_path, pixels):
    spec = model.export(tmp_path / "m.onnx", **{**OPTIONS, "confidence_threshold": 0.01}).spec
    with open_runner(tmp_path / "m.onnx", providers=["cpu"]) as runner:
        found = Detections.from_outputs(runner.run({"input": pixels[:1]}), spec)
    boxes = {tuple(box) for box in found.boxes.tolist()}
    assert len(boxes) < len(found)


def test_predicting_drawing_and_the_rest(model, tmp_path, photograph):
    path = tmp_path / "m.onnx"
    model.export(path, **{**OPTIONS, "confidence_threshold": 0.2})
    with PosePredictor(path, providers=["cpu"]) as predictor:
        result = predictor.predict(photograph)
        assert len(predictor.predict([photograph, photograph])) == 2
    found = result.prediction
    assert len(result) == len(found) > 2
    assert found.names[0] == found.class_names[found.classes[0]]
    assert found.filter(0.9999).boxes.shape == (0, 4)
    assert len(found[0]) == len(next(iter(found))) == 1
    record = json.loads(result.to_json())
    assert record["detections"][0]["name"] == found.names[0]
    row = found.to_coco(7)[0]
    assert row["image_id"] == 7
    assert row["category_id"] == found.classes[0] + 1
    drawn = result.draw()
    assert drawn.shape == photograph.shape
    assert (drawn != photograph).any()
    result.save(tmp_path / "drawn.png")
    eager = model.predict(photograph, conf=0.2)
    assert eager.prediction.class_names == found.class_names
    supervision = pytest.importorskip("supervision")
    assert isinstance(found.to_supervision(), supervision.Detections)


def test_every_precision(model, tmp_path, picture_folder):
    model.export(tmp_path / "m.onnx", verification=False, **OPTIONS)
    for precision in (Precision.INT8, Precision.FP16, Precision.INT8_FP16):
        data = picture_folder if precision.has_int8 else None
        report = quantize(tmp_path / "m.onnx", tmp_path / f"{precision}.onnx", data, QuantizeOptions(precision))
        assert min(report.noise_db.values()) > (10 if precision.has_int8 else 40), precision
        with open_runner(tmp_path / f"{precision}.onnx", providers=["cpu"]) as runner:
            assert runner.spec.precision == precision


def test_raw_heads_of_every_anchor(model, tmp_path, pixels):
    spec = model.export(tmp_path / "m.onnx", postprocessing=False, **SMALL).spec
    assert spec.output.names == ("pred_boxes", "pred_scores")
    with open_runner(tmp_path / "m.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels[:1]})
    anchors = sum((128 // stride) * (160 // stride) for stride in (8, 16, 32))
    assert outputs["pred_boxes"].shape == (1, anchors, 4)
    assert outputs["pred_scores"].shape == (1, anchors, CLASSES)
    with pytest.raises(RunnerError, match="postprocessing"):
        PosePredictor(tmp_path / "m.onnx", providers=["cpu"])


@pytest.mark.parametrize(("batch", "flat"), [(2, False), ("dynamic", True)])
def test_the_node_of_tensorrt(model, tmp_path, pixels, batch, flat):
    """EfficientNMS_TRT attribute by attribute; what feeds it, against the file for ONNX Runtime."""
    options = {**OPTIONS, "batch_size": batch, "output_predictions_format": "flat" if flat else "batch"}
    spec = model.export(tmp_path / "m.onnx", engine="tensorrt", max_predictions_per_image=20, **options).spec
    assert spec.plugins_required == ("EfficientNMS_TRT",)
    proto = onnx.load(tmp_path / "m.onnx")
    (node,) = [node for node in proto.graph.node if node.domain == "TRT"]
    assert node.op_type == "EfficientNMS_TRT"
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert values.pop("score_threshold") == pytest.approx(0.3)
    assert values.pop("iou_threshold") == pytest.approx(model.processing.iou)
    assert values == {
        "plugin_version": b"1", "max_output_boxes": 20, "background_class": -1, "score_activation": 0,
        "class_agnostic": 0, "box_coding": 0,
    }  # fmt: skip
    assert len(node.input) == 2
    if not flat:
        shapes = [[dim.dim_value for dim in item.type.tensor_type.shape.dim][1:] for item in proto.graph.output]
        assert shapes == [[1], [20, 4], [20], [20]]
    heads = extract_subgraph(proto, list(node.input))
    model.export(tmp_path / "raw.onnx", postprocessing=False, **{**SMALL, "batch_size": 2})
    with (
        OnnxRunner(heads.SerializeToString(), providers=["cpu"]) as fed,
        open_runner(tmp_path / "raw.onnx", providers=["cpu"]) as raw,
    ):
        got, want = fed.run({"input": pixels[:2]}), raw.run({"input": pixels[:2]})
    for name, reference_name in zip(node.input, ("pred_boxes", "pred_scores"), strict=True):
        np.testing.assert_allclose(got[name], want[reference_name], atol=1e-3)


def test_the_reference_of_the_node_is_the_onnx_selection(model, tmp_path, pixels):
    """In torch both forms keep the same objects, as long as no limit of either bites."""
    selection = Selection(0.3, model.processing.iou, 400, 50)
    decode = DecodeDetections(model.strides, 128, 160)
    with torch.inference_mode():
        heads = model(torch.from_numpy(pixels).float() / 255)
        first = EfficientSelect(selection, None)(decode(heads))
        second = SelectDetections(decode, selection)(heads)
    assert first[0].sum() > 6
    for got, want in zip(first, second, strict=True):
        torch.testing.assert_close(got.to(want.dtype), want)


def test_what_the_node_cannot_do(model, tmp_path, photograph, tiny_onnx):
    with pytest.raises(UsageError, match="nms_threshold is 0"):
        model.export(tmp_path / "m.onnx", engine="tensorrt", nms_threshold=0.0, **SMALL)
    model.export(tmp_path / "m.onnx", verification=False, **SMALL)
    with pytest.raises(RunnerError, match="one is for detection, the other for pose"):
        compare(tmp_path / "m.onnx", tiny_onnx, photograph)


def test_a_file_for_tensorrt_runs_in_onnxruntime_and_compares(model, tmp_path, photograph):
    """The node runs as a function of ONNX's own operators, and both files find the same."""
    limits = {"num_pre_nms_predictions": 400, "max_predictions_per_image": 100}
    for name, engine in (("a", "onnxruntime"), ("b", "tensorrt")):
        model.export(tmp_path / f"{name}.onnx", engine=engine, verification=False, **{**OPTIONS, **limits})
    result = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", [photograph, photograph[:, ::-1].copy()])
    assert result.task == "detection"
    assert result.found == result.matched > 6
    assert result.px_mean < 1e-3
    assert result.loss < 1e-5
    assert "objects" in str(result)
    assert "IoU loss" in str(result)


@needs_rtx
def test_rtx_builds_it_with_our_own_operator(model, tmp_path, capsys):
    """TensorRT-RTX has no EfficientNMS_TRT: the builder writes DetectionNMS_TRT in its place."""
    from trt_pose.builder.build import build_engine
    from trt_pose.builder.options import BuildOptions

    model.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, **{**SMALL, "batch_size": "dynamic"})
    options = BuildOptions(flavor="tensorrt_rtx", compute_capabilities=((8, 6),))
    sidecar = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options=options)
    assert sidecar.plugins == sidecar.spec.plugins_required == ("DetectionNMS_TRT",)
    assert (tmp_path / "m.engine").stat().st_size > 100_000


def test_the_replaced_node(model, tmp_path, pixels):
    from trt_pose.operators.rewrite import replace_efficient_nms

    model.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, **OPTIONS, batch_size=3)
    theirs = onnx.load(tmp_path / "m.onnx")
    ours = replace_efficient_nms(onnx.load(tmp_path / "m.onnx"))
    (node,) = [node for node in ours.graph.node if node.domain == "TRT"]
    assert node.op_type == "DetectionNMS_TRT"
    names = {item.name for item in node.attribute}
    assert names == {*NmsFields.__dataclass_fields__, "plugin_version", "plugin_namespace"}
    with (
        OnnxRunner(theirs.SerializeToString(), providers=["cpu"]) as first,
        OnnxRunner(ours.SerializeToString(), providers=["cpu"]) as second,
    ):
        want, got = (runner.run({"input": pixels}) for runner in (first, second))
    assert want["num_predictions"].sum() > 6
    for name, values in want.items():
        np.testing.assert_array_equal(values, got[name])
    (node,) = [node for node in theirs.graph.node if node.domain == "TRT"]
    next(item for item in node.attribute if item.name == "class_agnostic").i = 1
    with pytest.raises(EngineError, match="class_agnostic is 1, DetectionNMS_TRT has 0 only"):
        replace_efficient_nms(theirs)


def test_the_printed_snippets_run(model, tmp_path, photo_path, monkeypatch, capsys):
    import re

    (tmp_path / "image.jpg").write_bytes(photo_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for formats in ("batch", "flat"):
        text = str(model.export("m.onnx", output_predictions_format=formats, **OPTIONS))
        assert "objects per image" in text
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(block, {})  # noqa: S102 - our own printed code
    assert capsys.readouterr().out


def test_the_mean_stays_out_of_the_first_convolution(tmp_path):
    """Zero padding after the subtraction is not the colour zero: PP-YOLOE's normalization cannot be folded."""
    tiny("ppyoloe").export(tmp_path / "m.onnx", verification=False, **SMALL)
    first = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node][:5]
    assert "Conv" in first
    assert first.index("Conv") > 1
    assert BINS == 17
