"""The demonstration model: its weights are here, and what each precision costs in AP on pictures it never saw."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import trt_pose
from trt_pose import PosePredictor, models
from trt_pose.choices import CalibrationMethod, Precision
from trt_pose.evaluation import CANDIDATES, CONFIDENCE, IOU, LIMIT, evaluate_model, evaluate_predictor
from trt_pose.images.annotations import Annotations
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.models import families
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, quantize
from trt_pose.runtime.ort import has_fp16_quantizers
from trt_pose.skeleton import COCO

ASSETS = Path(trt_pose.__file__).parent / "assets"
IMAGES = 120


@pytest.fixture(scope="module")
def demo():
    return models.get("demo")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    return Annotations.read(write_coco(SyntheticPeople(IMAGES, seed=1), folder), folder)


@pytest.fixture(scope="module")
def ap_in_torch(demo, held_out):
    return evaluate_model(demo, held_out).metrics["AP"]


@pytest.fixture(scope="module")
def ap_of(demo, held_out, tmp_path_factory):
    """AP of the file in a precision; the FP32 file for None."""
    folder, known = tmp_path_factory.mktemp("demo"), {}
    source = folder / "fp32.onnx"
    demo.export(
        source, confidence_threshold=CONFIDENCE, nms_threshold=IOU, num_pre_nms_predictions=CANDIDATES,
        max_predictions_per_image=LIMIT, batch_size="dynamic",
    )  # fmt: skip
    calibration = [sample.image.transpose(2, 0, 1)[None] for sample in SyntheticPeople(32, seed=3)]

    def measure(precision=None, method=CalibrationMethod.ENTROPY, providers="cpu"):
        key = (precision, method, providers)
        if key not in known:
            path = source
            if precision is not None:
                path = folder / f"{precision}_{method}.onnx"
            if not path.exists():
                data = calibration if precision.has_int8 else None
                quantize(source, path, data, QuantizeOptions(precision, CalibrationOptions(method, batches=None)))
            with PosePredictor(path, providers=providers) as predictor:
                known[key] = evaluate_predictor(predictor, str(path), held_out, batch_size=8).metrics["AP"]
        return known[key]

    return measure


def test_packaged_weights_can_be_left_out():
    with pytest.warns(UserWarning, match="no weights"):
        untrained = models.get("demo", pretrained_weights="none"), models.get("demo", num_keypoints=5)
    assert [network.weights for network in untrained] == ["seed 0", "seed 0"]


def test_it_is_what_it_says(demo):
    info = models.MODELS["demo"]
    assert demo.weights == "synthetic"
    assert (demo.processing.input.height, demo.processing.input.width) == (320, 320)
    assert demo.processing.skeleton == COCO
    with torch.device("meta"):
        network = families.make("demo")
    used = sum(value.numel() for name, value in network.named_parameters() if ".rbr_reparam." not in name)
    assert used == info.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        families.make("demo").eval().fuse()(torch.zeros(1, 3, 640, 640))
    assert counter.get_total_flops() / 2e9 == pytest.approx(info.gmacs, abs=1e-3)
    assert (ASSETS / "demo.safetensors").stat().st_size < 15e6


def test_its_card_says_what_is_measured(ap_in_torch):
    card = (ASSETS / "demo.md").read_text(encoding="utf-8")
    said = float(re.search(r"\| sparse \| ([0-9.]+)", card)[1])
    assert ap_in_torch == pytest.approx(said, abs=0.04)  # of 500 pictures there, of 120 here


def test_onnx_is_torch(ap_in_torch, ap_of):
    assert ap_of() == pytest.approx(ap_in_torch, abs=0.001)


def test_half_precision_costs_nothing(ap_of):
    assert ap_of(Precision.FP16) == pytest.approx(ap_of(), abs=0.002)


@pytest.mark.parametrize("providers", ["cpu", "openvino"])
def test_int8_costs_a_point_at_most(ap_of, providers):
    if providers == "openvino":
        pytest.importorskip("openvino")
    assert ap_of() - ap_of(Precision.INT8, providers=providers) <= 0.01
    if has_fp16_quantizers():
        assert ap_of() - ap_of(Precision.INT8_FP16, providers=providers) <= 0.01


@pytest.mark.slow
def test_no_method_collapses(ap_of):
    """Entropy is the default for a reason: none of the others is much better, and none is far off."""
    fast = "openvino" if find_spec("openvino") else "cpu"
    lost = {method: ap_of() - ap_of(Precision.INT8, method, fast) for method in CalibrationMethod}
    assert max(lost.values()) < 0.05
    assert lost[CalibrationMethod.ENTROPY] < min(lost.values()) + 0.01
