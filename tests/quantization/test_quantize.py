"""Files in, files out: what is written, what is said about it, what is refused."""

import itertools
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from trt_pose import CalibrationError, ExportError, MissingDependencyError, PosePredictor, UsageError
from trt_pose.choices import CalibrationMethod as Method, Precision
from trt_pose.comparison import compare
from trt_pose.images.pixels import letterbox, read
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer, quantize
from trt_pose.quantization.batches import is_noise
from trt_pose.quantization.qdq import quantized_layers
from trt_pose.quantization.sensitivity import analyze
from trt_pose.runtime.ort import OnnxRunner, has_fp16_quantizers

from ..conftest import SMALL, make_tiny, slow_but_first

INT8, FP16, BOTH = Precision.INT8, Precision.FP16, Precision.INT8_FP16


def open_cpu(path):
    return OnnxRunner(path, providers=["cpu"])


@pytest.fixture(
    scope="module",
    params=slow_but_first(itertools.product(["tensorrt", "onnxruntime"], ["batch", "flat"])),
    ids="-".join,
)
def kind(tiny, tmp_path_factory, request):
    """A file for each backend in each format, and its format."""
    path, (backend, output_format) = tmp_path_factory.mktemp("kind") / "m.onnx", request.param
    tiny.export(path, engine=backend, output_predictions_format=output_format, verification=False, **SMALL)
    return path, output_format


@pytest.mark.parametrize("precision", [INT8, FP16, BOTH])
def test_every_kind_of_file_in_every_precision(kind, tmp_path, picture_folder, precision, photograph):
    (source, output_format), output = kind, tmp_path / "q.onnx"
    report = quantize(source, output, picture_folder, QuantizeOptions(precision.value))
    assert output.stat().st_size < source.stat().st_size
    assert report.precision is precision
    assert report.images == (6 if precision.has_int8 else 0)
    assert min(report.noise_db.values()) > (15 if precision.has_int8 else 50)
    # Close enough that the same people are found: a wrong scale or a lost weight would find none of them.
    found = compare(source, output, photograph, confidence=0.3) if not precision.has_int8 else None
    with open_cpu(output) as runner:
        assert runner.spec.precision == precision
        assert runner.spec.quantization == str(report)
        assert runner.spec.output.format == output_format
    if found is not None:
        assert found.found > 3
        assert found.loss < 0.1


def test_a_dynamic_batch_stays_dynamic(tiny_dynamic_onnx, picture_folder, tmp_path, rng):
    quantize(tiny_dynamic_onnx, tmp_path / "q.onnx", picture_folder, QuantizeOptions(BOTH))
    with open_cpu(tmp_path / "q.onnx") as runner:
        for batch in (1, 3):
            pixels = rng.integers(0, 256, (batch, 3, 128, 160), dtype=np.uint8)
            assert len(runner.run({"input": pixels})["pred_boxes"]) == batch


def test_int8_costs_little_on_what_it_was_calibrated_on(tiny_onnx, picture_folder, tmp_path):
    """Methods agree within a few dB on ordinary data; a collapse would show as single digits."""
    for method in Method:
        options = QuantizeOptions(INT8, CalibrationOptions(method, batches=None))
        report = quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder, options)
        assert min(report.noise_db.values()) > 20, method


def test_the_report_counts_what_the_file_holds(tiny_onnx, picture_folder, tmp_path):
    options = QuantizeOptions(INT8, selective=SelectiveQuantizer(exclude=("*head1*",)))
    report = quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder, options)
    kept = [name for name, why in report.kept.items() if why == "excluded"]
    assert kept
    assert all("head1" in name for name in kept)
    assert report.int8_layers + len(kept) == report.layers
    proto = onnx.load(tmp_path / "q.onnx")
    convolutions = [node for node in proto.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert quantized_layers(proto) == len(convolutions) - len(kept)


def test_an_int8_file_becomes_int8_and_fp16(tiny_onnx, picture_folder, tmp_path):
    quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder)
    report = quantize(tmp_path / "q.onnx", tmp_path / "both.onnx", None, QuantizeOptions(BOTH))
    assert min(report.noise_db.values()) > (20 if has_fp16_quantizers() else 15)
    with open_cpu(tmp_path / "both.onnx") as runner:
        assert runner.spec.precision == "int8+fp16"
        assert "entropy over 6 images" in runner.spec.quantization
    for wanted in (INT8, FP16, BOTH):
        with pytest.raises(UsageError, match="the file is in int8\\+fp16"):
            quantize(tmp_path / "both.onnx", tmp_path / "again.onnx", picture_folder, QuantizeOptions(wanted))
    with pytest.raises(UsageError, match="quantizing to fp32"):
        quantize(tiny_onnx, tmp_path / "again.onnx", None, QuantizeOptions(Precision.FP32))
    assert not (tmp_path / "again.onnx").exists()


def test_a_loader_that_can_be_read_once_serves(tiny_onnx, picture_folder, tmp_path):
    with open_cpu(tiny_onnx) as runner:
        spec = runner.spec.input
    pixels = np.stack([letterbox(read(path), spec)[0] for path in sorted(picture_folder.iterdir())])
    report = quantize(tiny_onnx, tmp_path / "q.onnx", iter(pixels[:, None]), QuantizeOptions(BOTH))
    assert report.images == 6


def test_nothing_is_written_when_something_is_wrong(tiny_onnx, picture_folder, tmp_path):
    output = tmp_path / "q.onnx"
    output.write_bytes(b"before")
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny_onnx.read_bytes()[:20_000])
    for error, arguments in (
        (CalibrationError, (tiny_onnx, output, None)),
        (CalibrationError, (tiny_onnx, output, [np.zeros((1, 3, 5, 5), np.uint8)])),
        (ExportError, (truncated, output, picture_folder)),
        (ExportError, (tmp_path / "none.onnx", output, picture_folder)),
        (ExportError, (tiny_onnx, tmp_path / "none" / "q.onnx", picture_folder)),
        (UsageError, (tiny_onnx, tmp_path / "q.engine", picture_folder)),
    ):
        with pytest.raises(error):
            quantize(*arguments)
    assert output.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["q.onnx", "truncated.onnx"]


def test_export_quantizes_in_one_call(tiny, tmp_path, picture_folder, rng):
    images = torch.from_numpy(np.sort(rng.integers(0, 256, (5, 3, 128, 160), dtype=np.uint8), axis=3))  # no noise
    loader = DataLoader(TensorDataset(images, torch.arange(5)), batch_size=2)
    result = tiny.export(tmp_path / "q.onnx", quantization_mode="int8", calibration_loader=loader, **SMALL)
    assert result.quantization_mode == "int8"
    assert result.quantization.method == "percentile 99.99"
    assert result.quantization.images == 5
    assert "Runs in: int8" in str(result)
    for mode, engine, precision in (("int8", "tensorrt", BOTH), ("fp16", "tensorrt", FP16), ("fp16", None, FP16)):
        data = picture_folder if mode == "int8" else None
        result = tiny.export(
            tmp_path / "q.onnx",
            engine=engine,
            quantization_mode=mode,
            calibration_loader=data,
            verification=False,
            **SMALL,
        )
        assert result.spec.precision == precision
    result = tiny.export(
        tmp_path / "q.onnx",
        quantization_mode="INT8",
        calibration_loader=str(picture_folder),
        calibration_method="entropy",
        calibration_batches=1,
        selective_quantizer="head1",
        **SMALL,
    )
    assert result.quantization.method == "entropy"
    assert any("head1" in name for name in result.quantization.kept)


@pytest.mark.parametrize(
    "loader",
    [
        None,
        "random",
        [np.random.default_rng(0).normal(0, 1, (2, 3, 128, 160)).astype(np.float32)] * 8,
        [np.random.default_rng(0).random((2, 3, 128, 160), np.float32)] * 8,
        [np.random.default_rng(0).integers(0, 256, (2, 3, 128, 160), np.uint8)] * 8,
    ],
    ids=["none", "random", "normal", "0..1", "0..255"],
)
def test_noise_serves_and_the_file_says_so(tiny, tmp_path, loader):
    with pytest.warns(UserWarning, match="calibrating on noise"):
        made = tiny.export(tmp_path / "q.onnx", quantization_mode="int8", calibration_loader=loader, **SMALL)
    assert made.quantization.images in (2, 16)
    assert "images of noise" in made.spec.quantization
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PosePredictor(tmp_path / "q.onnx").close()
    assert any("was calibrated on noise" in str(item.message) for item in caught)


def test_images_are_no_noise(photograph):
    crop = np.ascontiguousarray(photograph[:128, :160].transpose(2, 0, 1)[None])
    assert not is_noise(crop)
    assert not is_noise(np.full((1, 3, 64, 64), 7, np.uint8))


def test_images_of_a_folder_that_are_not_used_are_named(tiny_onnx, picture_folder, tmp_path):
    many = [str(path) for path in sorted(picture_folder.glob("*.*"))[:6]] * 11
    with pytest.warns(UserWarning, match="64 of 66 images are used; --max-images"):
        assert quantize(tiny_onnx, tmp_path / "q.onnx", many).images == 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options, count in (({"batches": 2}, 8), ({"images": 5}, 5), ({"batches": None, "images": 66}, 66)):
            chosen = QuantizeOptions(calibration=CalibrationOptions(**options))
            assert quantize(tiny_onnx, tmp_path / "q.onnx", many, chosen).images == count
        quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder)


def test_a_limit_of_images_holds_for_loaders_too(tiny_onnx, tmp_path, photograph):
    crop = np.ascontiguousarray(photograph[:128, :160].transpose(2, 0, 1)[None])
    loader = [np.repeat(crop, 3, axis=0)] * 4
    chosen = QuantizeOptions(calibration=CalibrationOptions(images=7))
    assert quantize(tiny_onnx, tmp_path / "q.onnx", loader, chosen).images == 7
    with pytest.raises(CalibrationError, match="calibration images: got 0, expected 1 or more"):
        CalibrationOptions(images=0)


def test_export_refuses_wrong_calibration_options(tiny, tmp_path):
    for options in (
        {"calibration_loader": [1]},
        {"quantization_mode": "fp16", "calibration_method": "mse"},
        {"quantization_mode": "int9"},
        {"quantization_mode": "int8", "calibration_loader": "random", "calibration_method": "guess"},
        {"quantization_mode": "int8", "calibration_loader": "random", "calibration_batches": 0},
        {"quantization_mode": "int8", "calibration_loader": "random", "selective_quantizer": 7},
    ):
        with pytest.raises((UsageError, CalibrationError)):
            tiny.export(tmp_path / "x.onnx", **options, **SMALL)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_sensitivity_finds_the_layer_that_was_spoiled(tmp_path, picture_folder):
    """One channel grows a thousandfold and its readers' weights shrink: the same function, ruined for one scale."""
    model = make_tiny()
    model.fuse()
    stage = model.backbone.stage2
    with torch.no_grad():
        stage.downsample.rbr_reparam.weight[0] *= 1000
        stage.downsample.rbr_reparam.bias[0] = stage.downsample.rbr_reparam.bias[0].abs() * 1000 + 500
        for reader in (stage.blocks.conv1, stage.blocks.conv2):
            reader.conv.weight[:, 0] /= 1000
    path = tmp_path / "m.onnx"
    model.export(path, verification=False, **SMALL)
    some = SelectiveQuantizer(include=("*stage2*", "*head1*"))
    minmax = QuantizeOptions(calibration=CalibrationOptions(Method.MINMAX), selective=some)
    found = analyze(path, picture_folder, minmax)
    worst = list(found.alone_db)[:2]
    assert all("stage2/blocks/conv" in name for name in worst), worst
    assert list(found.alone_db.values()) == sorted(found.alone_db.values())
    assert found.exclude == ()
    target = found.all_db + 3
    better = analyze(path, picture_folder, minmax, target)
    assert better.reached_db >= target
    assert 1 <= len(better.exclude) < 30
    assert list(better.alone_db)[: len(better.exclude)] == list(better.exclude)
    assert analyze(path, picture_folder, minmax, 1.0).exclude == ()


def test_sensitivity_goes_on_where_it_was(tiny_onnx, picture_folder, monkeypatch):
    from trt_pose.quantization import sensitivity

    calls = []
    real = sensitivity.quantize_layers

    def counting(network, layers, thresholds):
        calls.append([layer.name for layer in layers])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(network, layers, thresholds)

    monkeypatch.setattr(sensitivity, "quantize_layers", counting)
    some = QuantizeOptions(selective=SelectiveQuantizer(include=("*stage2*",)))
    with pytest.raises(KeyboardInterrupt):
        analyze(tiny_onnx, picture_folder, some)
    found = analyze(tiny_onnx, picture_folder, some)
    assert len(found.alone_db) > 5
    assert len(calls) == len(found.alone_db) + 2  # the interrupted one again, and all together


def test_int8_on_the_plain_cpu_says_what_is_missing(tiny_onnx, picture_folder, tmp_path, monkeypatch):
    from trt_pose import runtime

    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder)
    with pytest.warns(UserWarning, match=r"pip install openvino"):
        PosePredictor(tmp_path / "q.onnx").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PosePredictor(tmp_path / "q.onnx", providers=["cpu"]).close()  # asked for by name
        PosePredictor(tiny_onnx).close()


def test_int8_with_fp16_on_an_inexact_onnx_runtime_is_said(tiny_onnx, picture_folder, tmp_path, monkeypatch):
    import onnxruntime

    quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder, QuantizeOptions(BOTH))
    monkeypatch.setattr(onnxruntime, "__version__", "1.29.0")
    with pytest.warns(UserWarning, match=r"Install onnxruntime 1\.30 or newer"):
        PosePredictor(tmp_path / "q.onnx", providers=["cpu"]).close()


def test_missing_packages_are_named(monkeypatch, tiny, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(MissingDependencyError, match="pip install onnxslim"):
        tiny.export(tmp_path / "m.onnx", **SMALL)


def test_an_attached_file_takes_every_precision(picture_folder, tmp_path):
    """Files of other toolkits, given our description; their operator sets came from three exports."""
    from trt_pose.attachment.attach import AttachOptions, attach
    from trt_pose.operators.selection import Selection

    from ..attachment.test_attach import write

    source = write(tmp_path / "theirs.onnx", "yolov8-pose")
    attach(source, tmp_path / "ours.onnx", AttachOptions(selection=Selection(0.01, 0.7, 100, 100)))
    for precision in (INT8, FP16, BOTH):
        report = quantize(tmp_path / "ours.onnx", tmp_path / "q.onnx", picture_folder, QuantizeOptions(precision))
        assert min(report.noise_db.values()) > 10
        with open_cpu(tmp_path / "q.onnx") as runner:
            assert runner.spec.precision == precision


def test_the_overflow_guard_sees_every_image_of_a_batch(tiny_onnx, tmp_path, rng):
    from onnx import numpy_helper

    proto = onnx.load(tiny_onnx)
    for item in proto.graph.initializer:
        if item.name.endswith("stage1.downsample.rbr_reparam.weight"):
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(3e4), item.name))
    onnx.save(proto, tmp_path / "loud.onnx")
    dark, bright = np.zeros((1, 3, 128, 160), np.uint8), rng.integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)
    for data in ([np.concatenate([dark, bright])], [dark, bright]):
        report = quantize(tmp_path / "loud.onnx", tmp_path / "h.onnx", data, QuantizeOptions(FP16))
        assert any("values up to" in why for why in report.kept.values())


def test_sensitivity_refuses_what_it_cannot_measure(tiny_onnx, picture_folder, tmp_path):
    quantize(tiny_onnx, tmp_path / "q.onnx", picture_folder)
    with pytest.raises(UsageError, match="the file is in int8"):
        analyze(tmp_path / "q.onnx", picture_folder)
    for target in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected a number"):
            analyze(tiny_onnx, picture_folder, None, target)
    with pytest.raises(CalibrationError, match="INT8 needs images"):
        analyze(tiny_onnx, None)
