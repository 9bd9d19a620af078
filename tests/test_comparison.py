import json
import math
import shutil
import subprocess

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trt_pose import Poses, RunnerError, SourceError, UsageError
from trt_pose.choices import Precision
from trt_pose.comparison import check_loss, compare, compare_image
from trt_pose.documents import to_json
from trt_pose.quantization import QuantizeOptions, quantize
from trt_pose.skeleton import COCO


def people(*offsets, size=100.0):
    """One person per offset (px), 100 x 100 px, all joints in its middle."""
    boxes = np.array([(x, x, x + size, x + size) for x in offsets], np.float32).reshape(-1, 4)
    joints = np.full((len(offsets), 17, 3), 0.9, np.float32)
    for row, x in enumerate(offsets):
        joints[row, :, :2] = x + size / 2
    return Poses(boxes, np.linspace(0.9, 0.5, len(offsets), dtype=np.float32), joints, COCO)


def test_oks_by_hand():
    first, second = people(0), people(0)
    second.joints[0, 0, 0] += 3  # the nose, 3 px off
    sigma = 2 * 0.026
    want = (16 + math.exp(-9 / (2 * sigma**2 * 100 * 100 * 0.53))) / 17
    assert first.similarity(second)[0] == pytest.approx(want, rel=1e-6)
    assert first.similarity(first)[0] == 1.0
    assert people(0, size=0.0).similarity(people(0, size=0.0))[0] == 1.0  # no area, no division


def test_an_image_by_hand():
    first, second = people(0, 300, 600), people(300, 0, 900)
    second.joints[1, :, 0] += 2.0
    row = compare_image(first, second)
    assert (row.first, row.second, row.matched, row.missed, row.extra) == (3, 3, 2, 1, 1)
    assert row.px_max == pytest.approx(2.0)
    assert row.px_mean == pytest.approx(1.0)
    assert row.score == pytest.approx(0.2)
    empty = compare_image(people(), people())
    assert (empty.first, empty.matched, empty.px_mean, empty.similarity) == (0, 0, 0.0, 0.0)


def test_a_file_equals_itself(tiny_onnx, picture_folder):
    result = compare(tiny_onnx, tiny_onnx, picture_folder, confidence=0.3)
    assert len(result.images) == 6
    assert result.found == result.matched > 10
    assert (result.loss, result.px_mean, result.missed, result.extra) == (0.0, 0.0, 0, 0)


def test_a_file_for_tensorrt_equals_the_one_for_onnxruntime(tiny_onnx, tiny_plugin_onnx, picture_folder):
    """The plugin node runs on the CPU as a function of ONNX's own operators."""
    result = compare(tiny_onnx, tiny_plugin_onnx, picture_folder)
    assert result.found == result.matched > 50
    assert result.px_mean < 1e-3


def test_a_spoiled_file_is_measured(tiny_onnx, picture_folder, tmp_path):
    proto = onnx.load(tiny_onnx)
    for item in proto.graph.initializer:
        if item.name.endswith("head2.pose_pred.bias"):
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) + np.float32(1.0), item.name))
    onnx.save(proto, tmp_path / "off.onnx")
    result = compare(tiny_onnx, tmp_path / "off.onnx", picture_folder, tensors=True)
    assert result.loss > 0.05
    assert next(iter(result.noise_db)).endswith("pose_pred/Conv_output_0")  # the noisiest tensor is named first
    assert max(result.noise_db.values()) == math.inf  # what lies before it is equal
    assert list(result.outputs) == ["num_predictions", "pred_boxes", "pred_scores", "pred_joints"]
    assert result.outputs["pred_scores"].max_abs == 0.0  # the heads of the boxes and scores are equal
    gap = result.outputs["pred_joints"]
    assert gap.max_abs > 1.0
    assert gap.max_abs > gap.mean_abs > 0.0


def test_the_report_is_one_page(tiny_onnx, picture_folder, tmp_path):
    quantize(tiny_onnx, tmp_path / "q.onnx", None, QuantizeOptions(Precision.FP16))
    result = compare(tiny_onnx, tmp_path / "q.onnx", picture_folder, report=tmp_path / "r.html", confidence=0.3)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"<b>OKS loss {result.loss:.4f}.</b> 46 of 46 people found by both, 0 missed, 0 extra." in text
    assert "<dt>scores above</dt><dd>0.3</dd>" in text
    assert text.count("data:image/jpeg;base64,") == 12
    assert text.count("<tr") == 7
    assert 'class="differs"' not in text
    assert json.loads(json.dumps(result.to_dict()))["total"]["found"] == result.found
    for path, error in ((tmp_path / "r.pdf", UsageError), (tmp_path / "none" / "r.html", SourceError)):
        with pytest.raises(error):
            compare(tiny_onnx, tiny_onnx, picture_folder, report=path)


def test_low_scores_are_not_compared_unless_asked_for(tiny, picture_folder, tmp_path):
    """Files made for evaluation hold hundreds of them."""
    from .conftest import SMALL

    tiny.export(tmp_path / "eval.onnx", verification=False, **{**SMALL, "confidence_threshold": 0.01})
    every = compare(tmp_path / "eval.onnx", tmp_path / "eval.onnx", picture_folder, confidence=0.01)
    usual = compare(tmp_path / "eval.onnx", tmp_path / "eval.onnx", picture_folder)
    assert (every.confidence, usual.confidence) == (0.01, 0.25)
    assert every.found > usual.found > 0
    assert "people with scores above 0.25 in 6 images" in str(usual)
    assert usual.to_dict()["confidence"] == 0.25


CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_report_in_a_browser(tiny_onnx, picture_folder, tmp_path):
    """Verdict, pictures and marks are there when a browser has drawn the page."""
    proto = onnx.load(tiny_onnx)
    for item in proto.graph.initializer:
        if item.name.endswith("head2.cls_pred.bias"):
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) - np.float32(9), item.name))
    onnx.save(proto, tmp_path / "off.onnx")
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    result = compare(tiny_onnx, tmp_path / "off.onnx", picture_folder, report=page, max_loss=0.01)
    assert result.missed > 0
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=1100,1400"]  # fmt: skip
    for more in ([f"--screenshot={picture}"], ["--dump-dom"]):
        done = subprocess.run([CHROMIUM, *options, *more, page.as_uri()], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert f'<div class="verdict fail"><b>Failed: OKS loss {result.loss:.4f}, at most 0.01 allowed.</b>' in done.stdout
    assert done.stdout.count("<tr") == 7
    seen = np.asarray(cv2.imread(str(picture)))[:, :, ::-1].astype(int)
    assert (np.abs(seen - (214, 40, 40)).max(axis=2) < 25).sum() > 500  # the verdict's edge and the missed people
    assert seen.shape[0] > 1000


def test_what_cannot_be_compared(tiny_onnx, picture_folder, tmp_path):
    from .conftest import SMALL, make_tiny

    make_tiny(5).export(tmp_path / "five.onnx", verification=False, **SMALL)
    with pytest.raises(RunnerError, match="their joints differ \\(17 and 5\\)"):
        compare(tiny_onnx, tmp_path / "five.onnx", picture_folder)
    with pytest.raises(RunnerError):
        compare(tiny_onnx, tmp_path / "none.onnx", picture_folder)
    with pytest.raises(SourceError):
        compare(tiny_onnx, tiny_onnx, tmp_path)


def test_a_limit_is_kept_and_nan_passes_none(tiny_onnx, picture_folder, tmp_path):
    proto = onnx.load(tiny_onnx)
    for item in proto.graph.initializer:
        if item.name.endswith("head2.pose_pred.bias"):
            item.CopyFrom(numpy_helper.from_array(np.full(item.dims, np.nan, np.float32), item.name))
    onnx.save(proto, tmp_path / "nan.onnx")
    with pytest.warns(UserWarning, match="not finite numbers"):
        result = compare(tiny_onnx, tmp_path / "nan.onnx", picture_folder, tensors=True)
    assert result.loss > 0.1
    assert not check_loss(result, 0.01)
    assert json.loads(to_json(result.to_dict()))["noise_db"]
    assert check_loss(compare(tiny_onnx, tiny_onnx, picture_folder), 0.0)
    for limit in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="expected a number from 0 to 1"):
            check_loss(result, limit)
    with pytest.warns(UserWarning, match="so nothing was compared"):
        without_people = compare(tiny_onnx, tiny_onnx, picture_folder, confidence=1.0)
    with pytest.raises(RunnerError, match="nothing was compared"):
        check_loss(without_people, 0.5)
