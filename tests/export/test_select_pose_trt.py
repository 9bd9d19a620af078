"""Files for TensorRT: the plugin node, and the same poses as the file for ONNX Runtime gives."""

import numpy as np
import onnx
import pytest
import torch

from trt_pose import Poses, UsageError, open_runner
from trt_pose.export.format_modules import Flatten
from trt_pose.export.graph import assemble
from trt_pose.export.select_pose_trt import PluginSelect
from trt_pose.images.pixels import letterbox
from trt_pose.operators.selection import Selection
from trt_pose.results.pairing import compare_predictions
from trt_pose.runtime.ort import OnnxRunner

from .. import reference
from ..conftest import SMALL, make_model, make_tiny
from ..tolerances import KERNEL

CPU = {"providers": ["cpu"]}


def plugin_node(path):
    (node,) = [node for node in onnx.load(path).graph.node if node.op_type == "PoseNMS_TRT"]
    return node


@pytest.mark.parametrize("batch", [1, 4, "dynamic"])
@pytest.mark.parametrize("output_format", ["batch", "flat"])
def test_the_node_is_what_the_specification_says(tiny, tmp_path, batch, output_format):
    path = tmp_path / "m.onnx"
    result = tiny.export(
        path, engine="tensorrt", batch_size=batch, nms_threshold=0.6, max_predictions_per_image=40,
        output_predictions_format=output_format, **SMALL,
    )  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    node = plugin_node(path)
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert attributes == {
        "plugin_version": b"1",
        "plugin_namespace": b"",
        "score_threshold": pytest.approx(0.2),
        "iou_threshold": pytest.approx(0.6),
        "max_output_boxes": 40,
        "num_pre_nms_predictions": 100,
    }
    assert not {"NonMaxSuppression", "TopK"} & {item.op_type for item in model.graph.node}
    assert ("NonZero" in {item.op_type for item in model.graph.node}) == (output_format == "flat")
    assert result.spec.plugins_required == ("PoseNMS_TRT",)
    shapes = {
        item.name: [d.dim_value or d.dim_param for d in item.type.tensor_type.shape.dim] for item in model.graph.output
    }
    if output_format == "batch":
        first = "batch" if batch == "dynamic" else batch
        assert shapes["pred_joints"] == [first, 40, 17, 3]
        assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.INT32


def cut_before_plugin(path, target):
    """The file without the node: the decoded heads are its outputs."""
    model = onnx.load(path)
    names = list(plugin_node(path).input)
    cut = onnx.utils.Extractor(model).extract_model(["input"], names)
    cut.metadata_props.extend(model.metadata_props)
    onnx.save(cut, target)
    return names


@pytest.mark.parametrize("name", ["tiny", "yolo_nas_pose_n"])
def test_heads_then_kernel_equal_the_file_for_onnx_runtime(name, tmp_path, photograph, kernel_on_cpu):
    model = make_tiny() if name == "tiny" else make_model(name)
    options = {"input_image_shape": (320, 256), "confidence_threshold": 0.3, "batch_size": 2}
    model.export(tmp_path / "trt.onnx", engine="tensorrt", **options)
    ort = model.export(tmp_path / "ort.onnx", **options).spec
    pictures = [photograph, photograph[100:400, :300]]
    pixels = np.stack([letterbox(picture, ort.input)[0] for picture in pictures])
    names = cut_before_plugin(tmp_path / "trt.onnx", tmp_path / "heads.onnx")
    with (
        OnnxRunner((tmp_path / "heads.onnx").read_bytes(), **CPU) as heads,
        open_runner(tmp_path / "ort.onnx", **CPU) as whole,
    ):
        decoded = heads.run({"input": pixels})
        want = whole.run({"input": pixels})
    out = kernel_on_cpu(*(decoded[name] for name in names), 0.3, 0.7, 1000, 1000, threads=256)
    got = dict(zip(ort.output.names, out, strict=True))
    for image in range(2):
        first, second = (Poses.from_outputs(outputs, ort, image) for outputs in (want, got))
        gap = compare_predictions(first, second)
        assert gap.first > 5
        assert gap.unmatched == 0, gap
        assert gap.px < KERNEL.px
        assert gap.score < KERNEL.score
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_torch_computes_the_operator(tiny, flat):
    """The node's torch function against NumPy, ties and NaN included."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 100, (2, 80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 60, (2, 80, 2))], axis=2).astype(np.float32)
    scores = (np.round(rng.uniform(0, 1, (2, 80, 1)) * 10) / 10).astype(np.float32)
    scores[0, :7] = np.nan
    scores[1, 5] = np.inf
    joints = rng.normal(size=(2, 80, 3, 3)).astype(np.float32)
    outputs = PluginSelect(Selection(0.3, 0.4, 50, 30), 2, 3)(tuple(map(torch.from_numpy, (boxes, scores, joints))))
    want = reference.pose_nms(boxes, scores, joints, 0.3, 0.4, 50, 30)
    if flat:
        counts, *columns = want
        rows = [
            [image, *columns[0][image, row], columns[1][image, row], *columns[2][image, row].ravel()]
            for image in range(2)
            for row in range(int(counts[image, 0]))
        ]
        np.testing.assert_array_equal(Flatten()(outputs)[0].numpy(), np.array(rows, np.float32))
        return
    for expected, got in zip(want, outputs, strict=True):
        np.testing.assert_array_equal(expected, got.numpy())


def test_assembled_graph_agrees_with_the_onnx_runtime_graph(tiny, photograph):
    chosen = Selection(0.2, 0.7, 100, 100)
    pixels = torch.from_numpy(photograph[None, :128, :160].transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        one = assemble(tiny, 128, 160, selection=chosen)(pixels)
        other = assemble(tiny, 128, 160, postprocess=PluginSelect(chosen, 1, 17))(pixels)
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second.to(first.dtype), atol=1e-4, rtol=0)


@pytest.mark.parametrize("output_format", ["batch", "flat"])
def test_onnx_runtime_runs_it_too(tiny, tmp_path, output_format, rng):
    """The node's meaning comes with the package, so what TensorRT is given can be checked without TensorRT."""
    options = {"output_predictions_format": output_format, "batch_size": "dynamic", **SMALL}
    tiny.export(tmp_path / "plugin.onnx", engine="tensorrt", **options)
    tiny.export(tmp_path / "plain.onnx", **options)
    pixels = rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)
    with open_runner(tmp_path / "plugin.onnx", **CPU) as first, open_runner(tmp_path / "plain.onnx", **CPU) as second:
        got, want = first.run({"input": pixels}), second.run({"input": pixels})
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, atol=1e-4)


def test_what_is_printed_for_tensorrt(tiny, tmp_path):
    text = str(tiny.export(tmp_path / "m.onnx", engine="tensorrt", batch_size="dynamic", **SMALL))
    assert "trtexec --onnx=" in text
    assert "--maxShapes=input:8x3x128x160" in text
    assert "onnxruntime" not in text


def test_limits_of_the_plugin(tiny, tmp_path):
    with pytest.raises(UsageError, match="4096 at most"):
        tiny.export(tmp_path / "m.onnx", engine="tensorrt", num_pre_nms_predictions=5000)
    with pytest.raises(UsageError, match="65536 at most"):
        tiny.export(tmp_path / "m.onnx", engine="tensorrt", input_image_shape=2048)
    with pytest.raises(UsageError, match="256 at most"):
        make_tiny(300).export(tmp_path / "m.onnx", engine="tensorrt", input_image_shape=64)
    assert not list(tmp_path.iterdir())
