"""Quantization-aware fine-tuning: the module is the graph it was made of, the file it writes is what it computed."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trt_pose import UsageError
from trt_pose.cli import main
from trt_pose.graphs.file import load
from trt_pose.graphs.surgery import extract_subgraph
from trt_pose.images.pixels import letterbox
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, quantize
from trt_pose.quantization.network import Network
from trt_pose.quantization.qdq import fp16_exact_scale
from trt_pose.training.qat import QuantizedPose, quantized_weight

from ..conftest import SMALL, make_tiny

OPTIONS = QuantizeOptions(calibration=CalibrationOptions(batches=3))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("qat") / "fp32.onnx"
    make_tiny().export(path, batch_size="dynamic", **{**SMALL, "confidence_threshold": 0.01})
    return path


@pytest.fixture(scope="module")
def model(source, picture_folder):
    return QuantizedPose(load(source), str(picture_folder), OPTIONS)


def pixels(photograph, spec):
    placed, _ = letterbox(photograph, spec.input)
    return placed[None]


def border(proto, network, feed):
    """What ONNX Runtime computes up to the decode."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    part = extract_subgraph(proto, network.border)
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(network.border, session.run(None, {"input": feed}), strict=True))


def test_without_its_quantizers_it_is_the_fp32_graph(source, picture_folder, photograph):
    plain = QuantizedPose(load(source), str(picture_folder), OPTIONS)
    plain._steps = [dataclasses.replace(step, layer=None) for step in plain._steps]
    feed = pixels(photograph, plain.spec)
    expected = border(onnx.load(source), Network(onnx.load(source)), feed)
    with torch.no_grad():
        values = plain.run(torch.from_numpy(feed).float())
    for name, value in expected.items():
        np.testing.assert_allclose(values[name].numpy(), value, atol=2e-4 * np.abs(value).max())


def test_it_computes_what_the_post_training_file_computes(source, model, picture_folder, photograph, tmp_path):
    """Before any training it is the INT8 file of trt-pose quantize, up to roundings at the border of a level."""
    quantize(source, tmp_path / "int8.onnx", str(picture_folder), OPTIONS)
    int8 = onnx.load(tmp_path / "int8.onnx")
    feed = pixels(photograph, model.spec)
    expected = border(int8, Network(onnx.load(source)), feed)
    with torch.no_grad():
        values = model.run(torch.from_numpy(feed).float())
    for name, value in expected.items():
        error = np.abs(values[name].numpy() - value)
        assert np.median(error) < 1e-3 * np.abs(value).max()
        assert error.mean() < 1e-2 * np.abs(value).max()


def test_the_file_has_the_graph_of_a_post_training_one(source, model, picture_folder, tmp_path):
    quantize(source, tmp_path / "int8.onnx", str(picture_folder), OPTIONS)
    report = model.write(tmp_path / "qat.onnx")
    one, two = (onnx.load(tmp_path / name).graph for name in ("int8.onnx", "qat.onnx"))
    assert [(n.op_type, n.name, list(n.input)) for n in one.node] == [
        (n.op_type, n.name, list(n.input)) for n in two.node
    ]
    for first, second in zip(one.initializer, two.initializer, strict=True):  # nothing is trained yet
        assert first == second
    assert report.int8_layers == report.layers
    assert "fine-tuned" in report.method


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_quantized_as_the_file_holds_them(rng, axis):
    weight = rng.normal(0, 0.05, (6, 5, 3, 3)).astype(np.float32)
    weight[(slice(None),) * axis + (2,)] = 0  # a channel of zeros
    others = tuple(index for index in range(4) if index != axis)
    scale = fp16_exact_scale(np.abs(weight.astype(np.float64)).max(axis=others) / 1.0)
    along = scale.reshape([-1 if index == axis else 1 for index in range(4)])
    expected = np.clip(np.rint(weight.astype(np.float64) / along), -127, 127) * along
    given = torch.tensor(weight, requires_grad=True)
    found = quantized_weight(given, axis)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-7)
    found.sum().backward()
    assert (given.grad == 1).all()  # straight through


def test_gradients_reach_every_weight(model):
    size = model.processing.input
    images = torch.randint(0, 256, (2, 3, size.height, size.width)).float()
    sum(head.square().mean() for head in model(images)).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    model.zero_grad()
    assert not without


def test_files_that_cannot_be_tuned(source, picture_folder, tmp_path):
    quantize(source, tmp_path / "int8.onnx", str(picture_folder), OPTIONS)
    with pytest.raises(UsageError, match="expected the FP32 file of a YOLO-NAS-Pose"):
        QuantizedPose(load(tmp_path / "int8.onnx"), str(picture_folder), OPTIONS)


def test_the_command(source, tiny_onnx, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "train", "--qat", str(source), "--synthetic", "8", "--val-synthetic", "2", "--epochs", "1", "--batch",
                "4", "--workers", "0", "--lr", "1e-4", "--device", "cpu", "-o", str(tmp_path / "run"), "--json",
            ]
        )  # fmt: skip
    assert not stopped.value.code
    said = json.loads(capsys.readouterr().out)
    assert said["output"].endswith("qat.onnx")
    tuned, before = (onnx.load(path).graph.initializer for path in (tmp_path / "run/qat.onnx", source))
    assert {item.data_type for item in tuned} > {item.data_type for item in before}
    biases = [{item.name: item.raw_data for item in items if "bias" in item.name} for items in (tuned, before)]
    assert len(biases[0]) > 20
    moved = sum(biases[0][name] != biases[1][name] for name in biases[0])
    assert moved > len(biases[0]) / 2  # the others are of channels that never fire
    session = onnxruntime.InferenceSession(str(tmp_path / "run/qat.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((1, 3, 128, 160), np.uint8)})
    assert [path.name for path in (tmp_path / "run").glob("*.onnx")] == ["qat.onnx"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--qat", str(tiny_onnx), "--synthetic", "8", "--val-synthetic", "2", "-o", str(tmp_path / "b")])
    assert stopped.value.code == 1
    assert "Export it again with --conf 0.01" in capsys.readouterr().err
