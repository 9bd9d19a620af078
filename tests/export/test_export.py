"""The exported file against torch and against super-gradients, option by option."""

import numpy as np
import onnx
import pytest
import torch

from trt_pose import ExportError, Poses, UsageError, open_runner
from trt_pose.choices import DetectionOutputFormatMode as Format
from trt_pose.export.graph import assemble
from trt_pose.images.pixels import letterbox
from trt_pose.operators.selection import Selection
from trt_pose.spec import DIGEST_KEY, METADATA_KEY, ModelSpec

from .. import reference, tolerances
from ..conftest import DATA, SMALL, make_model, make_tiny

PX, SCORE = tolerances.ONNX.px, tolerances.ONNX.score


def run(path, pixels, providers=("cpu",)):
    with open_runner(path, providers=providers) as runner:
        return runner.run({"input": pixels}), runner.spec


def pixels_for(spec_size, batch, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (batch, 3, *spec_size), dtype=np.uint8)


def assert_close(first, second):
    tolerances.ONNX.check(first, second)


@pytest.mark.parametrize("output_format", ["batch", "flat"])
@pytest.mark.parametrize(("exported", "runs"), [(1, [1]), (2, [2]), ("dynamic", [1, 3])])
def test_file_equals_torch_and_numpy(tiny, tmp_path, output_format, exported, runs):
    path = tmp_path / "m.onnx"
    tiny.export(path, batch_size=exported, output_predictions_format=output_format, **SMALL)
    full = assemble(tiny, 128, 160)  # every anchor, decoded
    select = assemble(tiny, 128, 160, selection=Selection(0.2, 0.7, 100, 100), layout=Format(output_format))
    for batch in runs:
        pixels = pixels_for((128, 160), batch)
        found, spec = run(path, pixels)
        with torch.inference_mode():
            in_torch = dict(zip(spec.output.names, (t.numpy() for t in select(torch.from_numpy(pixels))), strict=True))
            boxes, scores, joints = (part.numpy() for part in full(torch.from_numpy(pixels)))
        for image in range(batch):
            got = Poses.from_outputs(found, spec, image)
            kept = reference.select(boxes[image], scores[image, :, 0], joints[image], 0.2, 0.7, 100, 100)
            assert len(got) > 5, "the test would compare nothing"
            assert (np.diff(got.scores) <= 0).all()
            assert_close(got, Poses.from_outputs(in_torch, spec, image))
            assert_close(got, Poses(boxes[image][kept], scores[image, kept, 0], joints[image][kept], spec.skeleton))
        if output_format == "batch":
            for image in range(batch):
                count = int(found["num_predictions"][image, 0])
                assert not any(found[name][image, count:].any() for name in spec.output.names[1:])
        else:
            assert (np.diff(found["flat_predictions"][:, 0]) >= 0).all()


@pytest.mark.parametrize("name", ["yolo_nas_pose_n", "yolo_nas_pose_s"])
def test_kept_rows_equal_super_gradients(name, tmp_path):
    data = np.load(DATA / f"{name}_parity.npz")
    pixels = np.random.default_rng(123).uniform(0, 1, (2, 3, 320, 256)).astype(np.float32)
    path = tmp_path / "m.onnx"
    make_model(name).export(
        path, 0.05, 0.7, preprocessing=False, batch_size=2, input_image_shape=(320, 256), verification=False
    )
    found, spec = run(path, pixels)
    for image in range(2):
        got = Poses.from_outputs(found, spec, image)
        want = Poses(
            data[f"nms{image}_boxes_xyxy"], data[f"nms{image}_scores"], data[f"nms{image}_joints"], spec.skeleton
        )
        assert len(want) > 50
        assert_close(got, want)
        np.testing.assert_allclose(got.scores, want.scores, atol=SCORE)  # the same order too


@pytest.mark.parametrize("output_format", ["batch", "flat"])
@pytest.mark.parametrize("batch", [1, 2])
def test_nothing_found(tiny, tmp_path, output_format, batch):
    path = tmp_path / "m.onnx"
    options = {**SMALL, "confidence_threshold": 1.0}
    tiny.export(path, batch_size=batch, output_predictions_format=output_format, **options)
    found, spec = run(path, pixels_for((128, 160), batch))
    assert all(len(Poses.from_outputs(found, spec, image)) == 0 for image in range(batch))
    if output_format == "flat":
        assert found["flat_predictions"].shape == (0, 57)
    else:
        assert not any(array.any() for array in found.values())


@pytest.mark.parametrize(("confidence", "iou"), [(0.0, 0.7), (0.0, 0.0), (0.2, 0.0)])
def test_a_threshold_of_zero_means_zero(tiny, tmp_path, confidence, iou):
    result = tiny.export(tmp_path / "m.onnx", confidence, iou, input_image_shape=(128, 160))
    assert (result.spec.output.confidence_threshold, result.spec.output.nms_threshold) == (confidence, iou)
    pixels = pixels_for((128, 160), 1)
    found, spec = run(tmp_path / "m.onnx", pixels)
    with torch.inference_mode():
        boxes, scores, joints = (part.numpy()[0] for part in assemble(tiny, 128, 160)(torch.from_numpy(pixels)))
    kept = reference.select(boxes, scores[:, 0], joints, confidence, iou, 420, 420)
    defaults = reference.select(boxes, scores[:, 0], joints, confidence or 0.5, iou or 0.7, 420, 420)
    assert len(Poses.from_outputs(found, spec)) == len(kept) != len(defaults)


@pytest.mark.parametrize("batch", [1, "dynamic"])
@pytest.mark.parametrize("output_format", ["batch", "flat"])
@pytest.mark.parametrize("simplify", [True, False])
def test_the_file_is_well_formed(tiny, tmp_path, batch, output_format, simplify):
    path = tmp_path / "m.onnx"
    tiny.export(
        path,
        batch_size=batch,
        output_predictions_format=output_format,
        onnx_simplify=simplify,
        verification=False,
        **SMALL,
    )
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert max(entry.version for entry in model.opset_import if entry.domain == "") <= 18
    made = {name for node in model.graph.node for name in node.output}
    used = {name for node in model.graph.node for name in node.input} | {item.name for item in model.graph.output}
    assert {item.name for item in model.graph.initializer} <= used
    assert [item.name for item in model.graph.input] == ["input"]
    if simplify:
        assert all(any(name in used for name in node.output) for node in model.graph.node)
        assert not {"Constant", "Identity", "Shape"} & {node.op_type for node in model.graph.node} or batch == "dynamic"
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        casts = [node for node in model.graph.node if node.op_type in ("Cast", "Gather") and "input" in node.input]
        assert len(casts) == 1, "channel order and scale live in the first convolution"
    assert {item.name for item in model.graph.output} <= made


def test_static_batch_has_static_shapes(tiny_onnx):
    shapes = {
        item.name: [d.dim_value or d.dim_param for d in item.type.tensor_type.shape.dim]
        for item in onnx.load(tiny_onnx).graph.output
    }
    assert shapes == {
        "num_predictions": [1, 1],
        "pred_boxes": [1, 100, 4],
        "pred_scores": [1, 100],
        "pred_joints": [1, 100, 17, 3],
    }


def test_the_description_says_everything(tiny, tmp_path):
    tiny.export(tmp_path / "m.onnx", nms_threshold=0.6, max_predictions_per_image=9, **SMALL)
    metadata = {item.key: item.value for item in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert list(metadata) == [METADATA_KEY, DIGEST_KEY]
    spec = ModelSpec.from_json(metadata[METADATA_KEY])
    assert (spec.model, spec.task, spec.precision, spec.plugins_required) == ("yolo_nas_pose_n", "pose", "fp32", ())
    assert (spec.input.height, spec.input.width, spec.input.resize_to) == (128, 160, (128, 160))
    assert (spec.input.dtype, spec.input.pad_value, spec.input.padding) == ("uint8", 127, "bottom_right")
    assert spec.input.normalization.channels == "BGR"
    assert (spec.output.confidence_threshold, spec.output.nms_threshold) == (0.2, 0.6)
    assert (spec.output.max_predictions_per_image, spec.output.num_pre_nms_predictions) == (9, 100)
    assert spec.skeleton.names[0] == "nose"
    assert len(spec.skeleton.edges) == 19
    assert spec.skeleton.sigmas[0] == 0.026
    assert spec.weights_sha256 == tiny.weights_sha256()
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_raw_outputs_without_postprocessing(tiny, tmp_path):
    path = tmp_path / "m.onnx"
    tiny.export(path, postprocessing=False, input_image_shape=(64, 96))
    pixels = pixels_for((64, 96), 1)
    found, spec = run(path, pixels)
    with torch.inference_mode():
        want = assemble(tiny, 64, 96)(torch.from_numpy(pixels))
    assert spec.output.format == "raw"
    for name, expected in zip(("pred_boxes", "pred_scores", "pred_joints"), want, strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), atol=PX)


class Halve(torch.nn.Module):
    """A user's pre-processing with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(1 / 255))

    def forward(self, x):
        return x.float().flip(1) * self.gain


class BestOnly(torch.nn.Module):
    """A user's post-processing: the surest person's box."""

    def forward(self, decoded):
        boxes, scores, _ = decoded
        best = scores.argmax(dim=1, keepdim=True).expand(-1, -1, 4)
        return boxes.gather(1, best)[:, 0]


def test_modules_in_place_of_pre_and_postprocessing(tiny, tmp_path):
    path = tmp_path / "m.onnx"
    tiny.export(path, preprocessing=Halve(), postprocessing=BestOnly(), input_image_shape=64, batch_size="dynamic")
    pixels = pixels_for((64, 64), 2)
    found, spec = run(path, pixels)
    with torch.inference_mode():
        boxes, scores, _ = assemble(tiny, 64, 64)(torch.from_numpy(pixels))
    best = [boxes[image, scores[image, :, 0].argmax()].numpy() for image in range(2)]
    assert spec.output.format == "custom"
    np.testing.assert_allclose(found["output"], best, atol=PX)


class Normalized(torch.nn.Module):
    """A user's pre-processing with layers the exporter rewrites."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(x.float() / 255))


class Weighted(torch.nn.Module):
    """A user's post-processing with a layer the exporter transposes."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, decoded):
        return self.linear(decoded[0]), decoded[1][..., 0] > 0.5


def test_modules_with_weights_of_their_own(tiny, tmp_path):
    torch.manual_seed(0)
    before, after = Normalized(), Weighted()
    before.train()
    tiny.export(tmp_path / "m.onnx", preprocessing=before, postprocessing=after, input_image_shape=64)
    assert before.training
    pixels = pixels_for((64, 64), 1)
    found, spec = run(tmp_path / "m.onnx", pixels)
    with torch.inference_mode():
        want = assemble(tiny, 64, 64, preprocess=before, postprocess=after)(torch.from_numpy(pixels))
    assert spec.output.names == ("output_0", "output_1")
    np.testing.assert_allclose(found["output_0"], want[0].numpy(), atol=1e-2)
    np.testing.assert_array_equal(found["output_1"], want[1].numpy())


def test_numpy_numbers_are_numbers(tiny, tmp_path):
    result = tiny.export(
        tmp_path / "m.onnx",
        confidence_threshold=np.float32(0.5),
        batch_size=np.int64(2),
        input_image_shape=np.array([64, 96]),
        verification=False,
    )
    assert (result.spec.input.batch, result.spec.input.width, result.spec.output.confidence_threshold) == (2, 96, 0.5)


@pytest.mark.parametrize("name", ["m.json", "m", "m.engine"])
def test_files_of_another_suffix(tiny, tmp_path, name):
    with pytest.raises(UsageError, match=r"expected \.onnx"):
        tiny.export(tmp_path / name)


def test_half_precision_weights_have_a_digest(tiny):
    assert make_tiny().bfloat16().weights_sha256() != tiny.weights_sha256()


def test_float_input_in_grey_levels(tiny, tmp_path):
    path = tmp_path / "m.onnx"
    tiny.export(path, input_image_dtype=torch.float32, **SMALL)
    pixels = pixels_for((128, 160), 1)
    found, spec = run(path, pixels.astype(np.float32))
    with torch.inference_mode():
        want = assemble(tiny, 128, 160, selection=Selection(0.2, 0.7, 100, 100))(torch.from_numpy(pixels))
    want = dict(zip(spec.output.names, (part.numpy() for part in want), strict=True))
    assert_close(Poses.from_outputs(found, spec), Poses.from_outputs(want, spec))


def test_another_padding(tiny, tmp_path, photograph):
    """The file says how its images are padded, and the predictor does so."""
    plain, black = (tiny.export(tmp_path / f"{value}.onnx", pad_value=value, **SMALL).spec for value in (None, 0))
    assert (plain.input.pad_value, black.input.pad_value) == (127, 0)
    pixels, placed = letterbox(photograph, black.input)
    assert placed.left + round(512 * placed.scale_x) < 160
    assert not pixels[:, :, -1].any()


def test_more_candidates_than_anchors_are_lowered_with_a_warning(tiny, tmp_path):
    with pytest.warns(UserWarning, match="lowered"):
        result = tiny.export(tmp_path / "m.onnx", input_image_shape=32, num_pre_nms_predictions=50, verification=False)
    assert (result.spec.output.num_pre_nms_predictions, result.spec.output.max_predictions_per_image) == (21, 21)


def test_postprocessing_kwargs_override(tiny, tmp_path):
    result = tiny.export(
        tmp_path / "m.onnx",
        confidence_threshold=0.9,
        input_image_shape=64,
        postprocessing_kwargs={"confidence_threshold": 0.1, "num_pre_nms_predictions": 50},
        verification=False,
    )
    assert (result.spec.output.confidence_threshold, result.spec.output.num_pre_nms_predictions) == (0.1, 50)
    with pytest.raises(ExportError, match="nonsense"):
        tiny.export(tmp_path / "m.onnx", postprocessing_kwargs={"nonsense": 1})


@pytest.mark.parametrize("opset", [16, 18])
def test_other_opsets(tiny, tmp_path, opset):
    tiny.export(tmp_path / "m.onnx", onnx_export_kwargs={"opset_version": opset}, **SMALL)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == opset


def test_exporting_a_fused_model_twice_gives_the_same_poses(tmp_path, photograph):
    model = make_tiny().fuse()
    specs = [model.export(tmp_path / f"{i}.onnx", **SMALL).spec for i in range(2)]
    assert specs[0] == specs[1]
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_a_difference_from_torch_is_an_error_with_both_numbers(tmp_path, monkeypatch):
    from trt_pose.export import export as export_onnx

    attach = export_onnx.attach_weights

    def attach_wrongly(proto, graph, spec):
        attach(proto, graph, spec)
        weight = next(item for item in proto.graph.initializer if item.name.endswith("head1.pose_pred.bias"))
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 0.1, weight.name))

    monkeypatch.setattr(export_onnx, "attach_weights", attach_wrongly)
    with pytest.raises(ExportError, match=r"disagree: person \d+ of .* differs .* px .*allowed 0.05 px"):
        make_tiny().export(tmp_path / "m.onnx", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence_threshold": 1.2}, "from 0 to 1"),
        ({"nms_threshold": -0.1}, "from 0 to 1"),
        ({"input_image_shape": (100, 640)}, "multiples of 32"),
        ({"input_image_shape": (0, 640)}, "multiples of 32"),
        ({"input_image_shape": "64"}, "height, width"),
        ({"input_image_shape": (64.9, 64)}, "whole numbers"),
        ({"preprocessing": "yes"}, "True, False or a torch module"),
        ({"postprocessing": 1}, "True, False or a torch module"),
        ({"postprocessing": False, "confidence_threshold": 7}, "from 0 to 1"),
        ({"device": "abacus"}, "torch cannot use"),
        ({"input_image_channels": 1}, "takes 3"),
        ({"input_image_dtype": "int8"}, "uint8 or float32"),
        ({"pad_value": 256}, "pad_value: got 256, expected 0 to 255"),
        ({"preprocessing": False, "input_image_dtype": "uint8"}, "needs preprocessing"),
        ({"batch_size": 0}, "whole number"),
        ({"batch_size": "many"}, "'dynamic'"),
        ({"max_predictions_per_image": 0}, "whole number"),
        ({"num_pre_nms_predictions": 0}, "whole number"),
        ({"output_predictions_format": "rows"}, "batch, flat"),
        ({"onnx_export_kwargs": {"opset_version": 9}}, "opset_version"),
        ({"onnx_export_kwargs": {"dynamic_axes": {}}}, "dynamic_axes"),
        ({"engine": "openvino"}, "onnxruntime, tensorrt"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_options_are_named(tiny, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        tiny.export(tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
