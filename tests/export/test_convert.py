"""The low-level door: any module to ONNX, with the caller's own steps."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from trt_pose import ExportError, UsageError, convert_to_onnx, models, open_runner

from ..conftest import make_tiny


class Scale(nn.Module):
    """uint8 BGR to floats in 0..1, RGB."""

    def forward(self, x):
        return x.flip(1).float() / 255


class Best(nn.Module):
    """Class and probability."""

    def forward(self, logits):
        value, index = logits.softmax(dim=1).max(dim=1)
        return index, value


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def test_custom_steps_around_any_module(tmp_path, rng):
    model = network()  # in training mode: the export is of the evaluation mode, and leaves the model as it is
    result = convert_to_onnx(
        model, tmp_path / "m.onnx", (3, 40, 60), Scale(), Best(), input_dtype="uint8", input_names=["frames"],
        output_names=["class", "probability"], dynamic_axes={"frames": {0: "n"}, "class": {0: "n"}},
    )  # fmt: skip
    assert model.training
    assert (result.spec.model, result.spec.output.names) == ("Sequential", ("class", "probability"))
    pixels = rng.integers(0, 256, (3, 3, 40, 60), dtype=np.uint8)
    with torch.inference_mode():
        kinds, values = Best()(model.eval()(Scale()(torch.from_numpy(pixels))))
    with open_runner(tmp_path / "m.onnx", providers=["cpu"]) as runner:
        found = runner.run({"frames": pixels})
    np.testing.assert_array_equal(found["class"], kinds)
    np.testing.assert_allclose(found["probability"], values, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "shape"), [((32, 48), (1, 3, 32, 48)), ((4, 32, 48), (1, 4, 32, 48)), ((2, 1, 32, 48), (2, 1, 32, 48))]
)
def test_sizes(tmp_path, size, shape):
    result = convert_to_onnx(network(shape[1]), tmp_path / "m.onnx", size, simplify=False, opset_version=18)
    proto = onnx.load(tmp_path / "m.onnx")
    assert tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim) == shape
    assert proto.opset_import[0].version == 18
    assert result.spec.output.names == ("output",)
    assert "output" in str(result)


def test_a_model_of_this_package_keeps_its_fusing(tmp_path):
    model = make_tiny()
    before = model.weights_sha256()
    convert_to_onnx(model, tmp_path / "m.onnx", (64, 96))
    proto = onnx.load(tmp_path / "m.onnx")
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert len(proto.graph.output) == 3
    assert model.weights_sha256() == before


class Broken(nn.Module):
    def forward(self, x):
        return {"x": x}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": 1}, UsageError, "model is int, expected a torch module"),
        ({"post_process": "x"}, UsageError, "post_process is str"),
        ({"input_size": (640,)}, UsageError, "input_size"),
        ({"input_size": 640}, UsageError, "input_size"),
        ({"input_size": (3, 0, 8)}, UsageError, "input_size"),
        ({"input_names": ["a", "b"]}, UsageError, "expected one"),
        ({"output_names": ["a", "b"]}, UsageError, "returns 1 tensors"),
        ({"input_size": (4, 32, 32)}, ExportError, r"running the model on \(1, 4, 32, 32\)"),
        ({"post_process": Broken()}, ExportError, "returned dict, expected a tensor"),
        ({"opset_version": 5}, UsageError, "opset_version"),
        ({"args": 1}, UsageError, "set by the export itself"),
        ({"out_path": "m.pt"}, UsageError, "suffix"),
    ],
    ids=str,
)
def test_what_cannot_be_converted(tmp_path, change, error, words):
    options = {"model": network(), "out_path": tmp_path / "m.onnx", "input_size": (3, 32, 32), **change}
    with pytest.raises(error, match=words):
        convert_to_onnx(**options)
    assert not list(tmp_path.iterdir())


class Fickle(nn.Module):
    """Takes one way while it is traced and another afterwards."""

    def forward(self, x):
        return x + 1 if torch.jit.is_tracing() else x + 2


def test_the_printed_snippet_runs_and_fp16_follows(tmp_path, monkeypatch, capsys):
    import re

    from trt_pose.choices import Precision
    from trt_pose.quantization import QuantizeOptions, quantize

    monkeypatch.chdir(tmp_path)
    for channels, dtype in ((1, "uint8"), (3, "float32")):
        before = Scale() if dtype == "uint8" else None
        text = str(convert_to_onnx(network(channels), "m.onnx", (channels, 32, 48), before, input_dtype=dtype))
        assert "as the module before the network takes it" in text
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        exec(block, {})  # noqa: S102 - our own printed code
        assert "output (1, 5) float32" in capsys.readouterr().out
        report = quantize("m.onnx", "half.onnx", None, QuantizeOptions(Precision.FP16))
        assert report.precision is Precision.FP16
        with open_runner("half.onnx", providers=["cpu"]) as runner:
            assert runner.run({"input": np.zeros((1, channels, 32, 48), dtype)})["output"].shape == (1, 5)


def test_outputs_that_differ_are_not_written(tmp_path):
    with pytest.raises(ExportError, match="output is 1 apart"):
        convert_to_onnx(Fickle(), tmp_path / "m.onnx", (8, 8))
    assert not list(tmp_path.iterdir())
    convert_to_onnx(Fickle(), tmp_path / "m.onnx", (8, 8), verification=False)


def test_models_are_listed_with_the_policy_they_have():
    """The words of the catalogue against the numbers of the models."""
    for name, info in models.MODELS.items():
        if name == "keypointrcnn_resnet50_fpn":
            continue
        with torch.device("meta"):
            from trt_pose.models.families import make

            policy = make(name).processing.input
        assert str(policy.resize_to[0]) in info.input
        assert policy.normalization.channels in info.input
        if policy.resize == "stretch":
            assert info.input.startswith("stretched")
        else:
            assert f"padded {'around' if policy.padding == 'center' else 'below and right'} with" in info.input
            assert str(policy.pad_value) in info.input
