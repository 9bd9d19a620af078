"""Every verb with the base dependencies alone: it runs, or names the package it lacks in one sentence."""

import os
import subprocess
import sys

import pytest

from .attachment.test_attach import write
from .conftest import slow_but_first

# Every finder of modules is wrapped, so that the optional packages are not found.
HIDE = """
import sys
HIDDEN = {"torch", "torchvision", "onnx", "onnx_graphsurgeon", "onnxslim", "safetensors", "polygraphy", "matplotlib",
          "faster_coco_eval", "supervision", "tensorrt", "tensorrt_rtx", "cuda", "openvino"}
class Wrapped:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Wrapped, sys.meta_path)
from trt_pose.cli import main
main(sys.argv[1:])
"""
HIDE_TORCH = HIDE.replace(
    HIDE[HIDE.index("HIDDEN = ") : HIDE.index("class Wrapped")], 'HIDDEN = {"torch", "torchvision"}\n'
)
LACKING = "is not installed. Run: pip install"


@pytest.mark.parametrize(
    ("command", "lacks"),
    [
        ("models", None),
        ("export demo -o new.onnx", "torch"),
        ("attach m.onnx -o new.onnx --head yolov8-pose", "onnx"),
        ("quantize m.onnx -o new.onnx --images pictures", "onnx"),
        ("quantize m.onnx -o new.onnx --precision fp16", "onnx"),
        ("calibration import cache.trt --onnx m.onnx -o new.json", "onnx"),
        ("calibration export cache.json -o new.trt --tensorrt 10.3.0", "onnx"),
        ("build m.onnx -o new.engine", "onnx"),
        ("plugin include", None),
        ("predict m.onnx pictures --save drawn", None),
        ("bench m.onnx --duration 0.01 --warmUp 0 --iterations 1", None),
        ("bench m.onnx --duration 0.01 --warmUp 0 --iterations 1 --save new.png", "matplotlib"),
        ("inspect m.onnx", None),
        ("doctor m.onnx", None),
        ("compare m.onnx m.onnx --images pictures", None),
        ("compare m.onnx m.onnx --images pictures --tensors", "polygraphy"),
        ("eval m.onnx --synthetic 2 --conf 0.2", "faster-coco-eval"),
        ("train --synthetic 4 -o run --val-synthetic 2", "torch"),
        ("synthesize new --count 1", None),
    ],
)
def test_every_verb(command, lacks, tmp_path, tiny_onnx, picture_folder):
    (tmp_path / "m.onnx").symlink_to(tiny_onnx)
    (tmp_path / "pictures").symlink_to(picture_folder)
    (tmp_path / "cache.trt").write_text("TRT-101600-EntropyCalibration2\ninput: 3f000000\n")
    (tmp_path / "cache.json").write_text(
        '{"format": 1, "thresholds": {"input": 1.0}, "model": "m", "preprocessing": "{}", "data": "d", "images": 1,'
        ' "method": "entropy", "versions": "none"}'
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", HIDE, *command.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    if lacks is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert done.stderr.count("error: ") == 1
        assert f"{lacks} {LACKING}" in done.stderr, done.stderr
        assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("backend", slow_but_first(["tensorrt", "onnxruntime"]))
@pytest.mark.parametrize("output_format", slow_but_first(["batch", "flat"]))
def test_attaching_needs_no_torch(tmp_path, picture_folder, backend, output_format):
    """Nor do the heads that ``inspect`` names, nor predicting."""
    write(tmp_path / "their.onnx", "yolov8-pose")
    for command, words in (
        ("inspect their.onnx", "yolov8-pose"),
        (f"attach their.onnx -o ours.onnx --backend {backend} --format {output_format}", "ours.onnx: "),
        (f"predict ours.onnx {picture_folder} --json found.json", ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", HIDE_TORCH, *command.split()], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
        assert words in done.stdout
