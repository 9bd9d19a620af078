"""Every code block an export prints is run, as it is printed."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from trt_pose import PosePredictor

from ..conftest import SMALL, make_tiny, slow_but_first

CASES = {
    "batch": {**SMALL, "max_predictions_per_image": 3},
    "batch-of-two": {**SMALL, "batch_size": 2},
    "dynamic": {**SMALL, "batch_size": "dynamic"},
    "flat": {**SMALL, "output_predictions_format": "flat", "max_predictions_per_image": 3},
    "flat-of-two": {**SMALL, "output_predictions_format": "flat", "batch_size": 2},
    "raw": {"input_image_shape": (128, 160), "postprocessing": False},
    "bare": {"input_image_shape": (128, 160), "preprocessing": False},
}


@pytest.mark.parametrize("case", slow_but_first(CASES))
def test_printed_snippets_run(tiny, tmp_path, case, photo_path):
    result = tiny.export(tmp_path / "model.onnx", verification=False, **CASES[case])
    (tmp_path / "image.jpg").write_bytes(photo_path.read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", result.usage_instructions, re.DOTALL)
    assert len(blocks) == (1 if case in ("raw", "bare") else 2)
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() or case == "bare"


def test_the_text_names_what_was_asked_for(tiny, tmp_path):
    result = tiny.export(tmp_path / "model.onnx", verification=False, **CASES["batch"])
    text = repr(result)
    assert text == result.usage_instructions == str(result)
    for word in ("yolo_nas_pose_n", "(1, 3, 128, 160)", "uint8", "0.2", "0.7", "at most 3 people", "num_predictions"):
        assert word in text


POLICIES = {
    "corner": {},
    "center": {"padding": "center", "pad_value": 114, "resize_to": (124, 156)},
    "stretch": {"resize": "stretch"},
    "stretch and center": {"resize": "stretch", "padding": "center", "resize_to": (96, 96)},
}


@pytest.mark.parametrize("policy", slow_but_first(POLICIES))
@pytest.mark.parametrize("output_format", ["batch", "flat"])
def test_the_snippet_by_hand_gives_what_the_predictor_gives(tmp_path, photo_path, policy, output_format):
    model = make_tiny()
    model.processing = replace(
        model.processing, input=replace(model.processing.input.with_size(128, 160), **POLICIES[policy])
    )
    options = {**SMALL, "input_image_shape": None, "output_predictions_format": output_format}
    result = model.export(tmp_path / "model.onnx", verification=False, **options)
    (tmp_path / "image.jpg").write_bytes(photo_path.read_bytes())
    block = re.findall(r"```python\n(.*?)```", result.usage_instructions, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [float(line.split()[0]) for line in done.stdout.splitlines() if "[" not in line]
    with PosePredictor(tmp_path / "model.onnx", providers=["cpu"]) as predictor:
        poses = predictor.predict(photo_path).poses
    assert len(poses) > 0
    np.testing.assert_allclose(printed, poses.joints[:, :, 0].reshape(-1), rtol=1e-4, atol=1e-2)
