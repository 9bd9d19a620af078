"""The code of the README files, run in the order it is printed, in a folder with photographs, and their links."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trt_pose.cli import main
from trt_pose.models.catalogue import MODELS

from .conftest import has_tensorrt, make_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "trt_pose").glob("*/README.md")), ROOT / "plugins" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")
# A block after such a comment is for the reader: <!-- not run: needs a GPU -->
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)
BLOCKS = [
    (page, language, code)
    for page in PAGES
    for not_run, language, code in BLOCK.findall(page.read_text(encoding="utf-8"))
    if not not_run
]


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


def named(index):
    page, language, _ = BLOCKS[index]
    return f"{index}-{page.parent.name}-{language}"


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=named)
def test_code_blocks_run(desk, index):
    _, language, code = BLOCKS[index]
    if ("find_flavor" in code or "trt-pose build" in code) and not has_tensorrt():
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


@pytest.mark.slow
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
        "drawn/000002.png",
        "calibration.json",
        "poses.jsonl",
        "poses.csv",
        "poses.jpg",
    ):
        assert (desk / name).exists(), name


def test_the_table_of_models_is_the_one_trt_pose_models_prints(capsys):
    with pytest.raises(SystemExit):
        main(["models", "--markdown"])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == len(MODELS) + 2
    assert table in (ROOT / "trt_pose" / "models" / "README.md").read_text(encoding="utf-8")


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 220


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md"), *ROOT.glob("*/*/*.md")}), ids=str)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
