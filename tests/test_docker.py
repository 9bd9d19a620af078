"""No container runs here: the files are linted, and what their images install is installed in a clean environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
FILES = ["Dockerfile", "Dockerfile.jetson"]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, DOCKER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_the_rules_of_the_images(name):
    text = (DOCKER / name).read_text(encoding="utf-8")
    build, run = re.split(r"^FROM .* AS run$", text, flags=re.MULTILINE)
    assert "COPY . /src" in build
    assert "COPY . " not in run  # sources and compilers stay behind
    assert "USER 10001" in run
    assert 'CMD ["trt-pose", "doctor"]' in run
    assert "torch" not in re.sub(r"#.*", "", text)
    assert "docker/install.sh" in build


def test_compose_reserves_a_gpu():
    import yaml

    service = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]["pose"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_the_extras_they_install_exist():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in FILES:
        docker = (DOCKER / name).read_text(encoding="utf-8")
        extra = re.search(r"install\.sh /opt/trt_pose/venv \"?(\$\{EXTRA\}|\w+)", docker)[1]
        extra = re.search(r"ARG EXTRA=(\w+)", docker)[1] if extra == "${EXTRA}" else extra
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRT_POSE_NETWORK"), reason="downloads packages: set TRT_POSE_NETWORK=1")
def test_the_install_steps_in_a_clean_environment(tmp_path):
    """What the run image holds, with TensorRT-RTX: no torch, and it predicts."""
    done = subprocess.run([DOCKER / "install.sh", tmp_path / "venv", "rtx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("trt-pose ")
    code = "import importlib.util as u; assert u.find_spec('torch') is None; import tensorrt_rtx, trt_pose.predictor"
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
