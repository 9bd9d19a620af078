"""The README's code, run in the order it is printed, in an empty folder with a photograph."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trt_pose.cli import main
from trt_pose.models.catalogue import MODELS

from .conftest import make_model

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
HAS_TENSORRT = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory, photo_path):
    """The reader's folder, and a mirror with the published file names on this machine."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "photos").mkdir()
    (desk / "mirror").mkdir()
    for name in ("image.jpg", "photos/a.jpg", "photos/b.jpg"):
        (desk / name).write_bytes(photo_path.read_bytes())
    state = make_model("yolo_nas_pose_n").state_dict()
    torch.save({"net": state}, desk / "mirror" / "yolo_nas_pose_n_coco_pose.pth")
    return desk


@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=lambda index: f"{index}-{BLOCKS[index][0]}")
def test_code_blocks_run(desk, index):
    language, code = BLOCKS[index]
    if ("find_flavor" in code or "trt-pose build" in code) and not HAS_TENSORRT:
        pytest.skip("needs TensorRT or TensorRT-RTX")
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(desk / "cache"),
        "TRT_POSE_WEIGHTS_URL": (desk / "mirror").as_uri(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_blocks_wrote(desk):
    """After the blocks above: the files their text promises."""
    for name in (
        "pose.onnx",
        "batch.onnx",
        "flat.onnx",
        "int8.onnx",
        "compare.html",
        "bench.json",
        "bench.csv",
        "drawn/image.jpg",
        "poses.json",
        "poses.jpg",
    ):
        assert (desk / name).exists(), name


def test_the_table_of_models_is_the_one_trt_pose_models_prints(capsys):
    with pytest.raises(SystemExit):
        main(["models", "--markdown"])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == len(MODELS) + 2
    assert table in README


def test_the_make_targets_of_the_readme_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
