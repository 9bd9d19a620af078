"""OpenVINO: which files it runs by itself, INT8 as exact as in ONNX Runtime, its cache, and what is refused."""

import os
import sys
import warnings

import numpy as np
import onnx
import pytest

from trt_pose import MissingDependencyError, PosePredictor, RunnerError, UsageError, models, open_runner
from trt_pose.files import cache_folder
from trt_pose.graphs.file import load
from trt_pose.graphs.surgery import extract_subgraph
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.quantization import SelectiveQuantizer, quantize
from trt_pose.quantization.network import Network
from trt_pose.quantization.quantize import QuantizeOptions
from trt_pose.quantization.snr import signal_to_noise
from trt_pose.runtime.onnx_file import has_plugin_node, read_metadata
from trt_pose.runtime.ort import OnnxRunner

from .. import tolerances

openvino = pytest.importorskip("openvino")
fake_quantize = pytest.importorskip("trt_pose.runtime.fake_quantize")
module = pytest.importorskip("trt_pose.runtime.openvino")
OpenVinoRunner = module.OpenVinoRunner


@pytest.fixture(scope="module")
def tiny_int8(tiny_onnx, picture_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    quantize(tiny_onnx, path, picture_folder)
    return path


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory):
    """The demonstration model at 160 px, in FP32 and in INT8."""
    folder = tmp_path_factory.mktemp("demo")
    models.get("demo").export(folder / "fp32.onnx", input_image_shape=160, verification=False)
    people = [sample.image[::2, ::2].transpose(2, 0, 1)[None] for sample in SyntheticPeople(16, seed=3)]
    quantize(folder / "fp32.onnx", folder / "int8.onnx", people)
    return folder / "fp32.onnx", folder / "int8.onnx"


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)


def test_int8_goes_to_openvino_and_fp32_does_not(tiny_onnx, tiny_int8):
    for path, options, kind in (
        (tiny_int8, {}, OpenVinoRunner),
        (tiny_int8, {"providers": "auto"}, OpenVinoRunner),
        (tiny_int8, {"providers": "cpu"}, OnnxRunner),
        (tiny_onnx, {}, OnnxRunner),
        (tiny_onnx, {"providers": ["OpenVINO"]}, OpenVinoRunner),
        (tiny_onnx, {"providers": "openvino:cpu", "threads": 1}, OpenVinoRunner),
        (tiny_int8.read_bytes(), {}, OpenVinoRunner),
    ):
        with open_runner(path, **options) as runner:
            assert isinstance(runner, kind)
            assert runner.runtime.startswith("OpenVINO" if kind is OpenVinoRunner else "ONNX Runtime")


def noise(path, reference, border, people):
    """Signal to noise of the heads, dB, by each runtime."""
    values = []
    for model, providers in ((reference, "cpu"), (path, "cpu"), (path, "openvino")):
        part = extract_subgraph(load(model), border).SerializeToString()
        with open_runner(part, providers=providers) as runner:
            runs = [runner.run({"input": image}) for image in people]
        values.append({name: np.concatenate([run[name].ravel() for run in runs]).astype(float) for name in border})
    want, *found = values
    return [[signal_to_noise(want[name], each[name]) for name in border] for each in found]


def test_int8_is_as_exact_as_in_onnx_runtime(demo_files):
    fp32, int8 = demo_files
    border = list(Network(load(fp32)).border)
    people = [sample.image[::2, ::2].transpose(2, 0, 1)[None].copy() for sample in SyntheticPeople(6, seed=1)]
    by_onnx_runtime, by_openvino = noise(int8, fp32, border, people)
    assert len(border) > 2
    assert min(by_onnx_runtime) > 10
    for first, second in zip(by_onnx_runtime, by_openvino, strict=True):
        assert second > first - 1


def quantized(path):
    read = openvino.Core().read_model(str(path))
    fake_quantize.Quantizers(read).rewrite()
    return read.get_ordered_ops()


def activations(nodes):
    return [node for node in nodes if node.get_type_name() == "FakeQuantize"]


def test_each_tensor_has_one_quantizer_and_no_concatenation_has_one_behind_it(demo_files):
    found = activations(quantized(demo_files[1]))
    assert len(found) > 50
    sources = [(node.input_value(0).get_node().get_friendly_name(), node.input_value(0).get_index()) for node in found]
    assert len(set(sources)) == len(sources)
    kinds = [node.input_value(0).get_node().get_type_name() for node in found]
    assert "Concat" not in kinds
    for node, kind in zip(found, kinds, strict=True):
        low, high = (float(node.input_value(index).get_node().data) for index in (1, 2))
        assert high > 0
        if kind == "Relu":
            assert low == 0
        elif low < 0:  # zero is a level: padding stays zero
            assert abs(low * 255 / (high - low) - round(low * 255 / (high - low))) < 1e-3


def test_nothing_else_reads_quantized_values(tiny_onnx, picture_folder, tmp_path):
    quantize(
        tiny_onnx, tmp_path / "some.onnx", picture_folder,
        QuantizeOptions(selective=SelectiveQuantizer(exclude=("*stage2*conv3*",))),
    )  # fmt: skip
    nodes = quantized(tmp_path / "some.onnx")
    kept = [
        node for node in nodes
        if node.get_type_name() == "Convolution" and "stage2/blocks/conv3" in node.get_friendly_name()
    ]  # fmt: skip
    assert kept
    assert all(node.input_value(0).get_node().get_type_name() != "FakeQuantize" for node in kept)
    assert activations(nodes)


@pytest.mark.parametrize("wanted", [(-1.0, 1.0), (-1.473, 13.549), (-0.001, 5.0), (-128 / 127, 1.0)])
def test_zero_becomes_a_level_and_the_range_only_grows(wanted):
    low, high = fake_quantize._with_zero(*wanted)
    step = (high - low) / 255
    assert low / step == pytest.approx(round(low / step), abs=1e-9)
    assert low <= wanted[0] + 1e-9
    assert high >= wanted[1] - 1e-9
    assert high - low < (wanted[1] - wanted[0]) * 1.02


def test_plugin_nodes_are_expanded(tiny_dynamic_plugin_onnx, tiny_dynamic_onnx, rng):
    assert has_plugin_node(tiny_dynamic_plugin_onnx)
    assert not has_plugin_node(tiny_dynamic_onnx)
    image = rng.integers(0, 256, (2, 3, 128, 160), dtype=np.uint8)
    with (
        open_runner(tiny_dynamic_plugin_onnx, providers="cpu") as first,
        open_runner(tiny_dynamic_plugin_onnx, providers="openvino") as second,
    ):
        want, got = (runner.run({"input": image}) for runner in (first, second))
    for name in want:
        assert got[name].dtype == want[name].dtype
    for index in range(2):
        from trt_pose import Poses

        tolerances.RUNNERS.check(*(Poses.from_outputs(outputs, first.spec, index) for outputs in (want, got)))


def test_arrays_of_any_layout(tiny_onnx, pixels):
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with OpenVinoRunner(tiny_onnx) as runner:
        one, other = (runner.run({"input": array}) for array in (pixels, turned))
    np.testing.assert_array_equal(one["pred_boxes"], other["pred_boxes"])


def test_bf16_is_close(tiny_onnx, photograph):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UsageError, match="no instructions for bf16"):
            open_runner(tiny_onnx, precision="bf16")
        return
    with PosePredictor(tiny_onnx) as first, PosePredictor(tiny_onnx, precision="bf16") as second:
        assert "bf16" in second._runner.runtime
        one, other = (predictor.predict(photograph).prediction for predictor in (first, second))
    assert len(one) > 5
    assert abs(len(one) - len(other)) <= 0.2 * len(one)


def blobs():
    return sorted((cache_folder("openvino")).glob("*.blob"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_compiled_model_is_kept_and_used(tiny_int8, pixels, cache, monkeypatch):
    with OpenVinoRunner(tiny_int8) as runner:
        want = runner.run({"input": pixels})
    assert len(blobs()) == 1
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("compiled again"))
    with OpenVinoRunner(tiny_int8) as runner:
        got = runner.run({"input": pixels})
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_other_files_and_settings_have_places_of_their_own(tiny_onnx, tiny_int8, cache, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_MODELS", 3)
    for path, threads in ((tiny_onnx, 1), (tiny_onnx, 2), (tiny_int8, 1), (tiny_int8, 2)):
        OpenVinoRunner(path, threads=threads).close()
    assert len(blobs()) == 3


@pytest.mark.parametrize("content", [b"", b"nothing of this kind", None], ids=["empty", "other", "cut"])
def test_a_damaged_one_is_made_anew(tiny_int8, cache, content):
    OpenVinoRunner(tiny_int8).close()
    whole = blobs()[0].read_bytes()
    blobs()[0].write_bytes(whole[: len(whole) // 2] if content is None else content)
    OpenVinoRunner(tiny_int8).close()
    assert blobs()[0].read_bytes()[:64] == whole[:64]


def test_a_cache_that_cannot_be_used_costs_time_only(tiny_int8, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="is not kept"):
        OpenVinoRunner(tiny_int8).close()


def test_external_weights_are_not_cached(tiny_onnx, tmp_path, cache):
    proto = load(tiny_onnx)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    OpenVinoRunner(tmp_path / "m.onnx").close()
    assert blobs() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"providers": "openvino:fpga"}, "no device FPGA here, only CPU"),
        ({"providers": ["openvino", "cpu"]}, "runs alone"),
        ({"providers": "openvino", "precision": "fp8"}, "expected fp32 or bf16"),
        ({"providers": "cpu", "precision": "bf16"}, "Use OpenVINO"),
        ({"providers": "openvino", "threads": 0}, "expected 1 to"),
        ({"providers": "openvino", "threads": 99999999999}, "expected 1 to"),
        ({"providers": "cpu", "threads": 99999999999}, "expected 1 to"),
    ],
)
def test_wrong_options_are_one_sentence(tiny_onnx, options, words):
    with pytest.raises(UsageError, match=words):
        open_runner(tiny_onnx, **options)


def with_unknown_operator(path, target, precision="fp32"):
    """A file whose scores go through an operator that OpenVINO lacks."""
    proto = onnx.load(path)
    name = proto.graph.output[2].name
    for node in proto.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = "before"
    proto.graph.node.append(
        onnx.helper.make_node("Scaler", ["before"], [name], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    )
    proto.opset_import.add(domain="ai.onnx.ml", version=1)
    for item in proto.metadata_props:
        item.value = item.value.replace('"precision": "fp32"', f'"precision": "{precision}"')
        item.value = item.value.replace('"precision":"fp32"', f'"precision":"{precision}"')
    onnx.save(proto, target)
    return target


def test_a_file_it_cannot_compile(tiny_onnx, tmp_path, pixels):
    path = with_unknown_operator(tiny_onnx, tmp_path / "m.onnx", "int8")
    with pytest.raises(RunnerError, match=r"OpenVINO cannot load it: .*Scaler.*Use --provider cpu"):
        open_runner(path, providers="openvino")
    with pytest.warns(UserWarning, match="ONNX Runtime runs it instead"):
        runner = open_runner(path)
    with runner:
        assert isinstance(runner, OnnxRunner)
        assert runner.run({"input": pixels})["pred_boxes"].shape == (1, 100, 4)


def test_damaged_files_and_those_without_description(tiny_onnx, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:2000])
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(RunnerError, match=f"{name}.onnx: it holds no trt_pose description"):
            open_runner(tmp_path / f"{name}.onnx", providers="openvino")
    with pytest.raises(RunnerError, match="no such file"):
        open_runner(tmp_path / "none.onnx", providers="openvino")


def test_it_is_named_when_it_is_missing(tiny_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="pip install openvino"):
        open_runner(tiny_onnx, providers="openvino")


def test_metadata_is_read_as_onnx_reads_it(tiny_onnx, tmp_path):
    want = {item.key: item.value for item in onnx.load(tiny_onnx).metadata_props}
    assert want
    assert read_metadata(tiny_onnx) == want == read_metadata(tiny_onnx.read_bytes())
    data = tiny_onnx.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in range(0, 400, 7):
            assert read_metadata(data[:size]) == {}
    assert read_metadata(tmp_path / "none.onnx") == {}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    for providers in ("auto", "cpu", "openvino"):
        with pytest.raises(RunnerError, match="a device or a pipe"):
            open_runner(tmp_path / "m.onnx", providers=providers)


def test_an_openvino_that_does_not_load_leaves_the_file_to_onnx_runtime(tiny_int8, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("trt_pose.runtime.importlib.util.find_spec", lambda name: name)
    with pytest.warns(UserWarning, match=r"pip install openvino.* ONNX Runtime runs it instead"):
        runner = open_runner(tiny_int8)
    with runner:
        assert isinstance(runner, OnnxRunner)
