"""The wheel and the source distribution: what a user gets who has no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import nlohmann_json
import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source distribution of a copy of this tree."""
    folder = tmp_path_factory.mktemp("build")
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "tree")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A fresh environment with the wheel; its dependencies are those of this environment."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    site.mkdir(parents=True, exist_ok=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # noqa: S202 - our own wheel
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment


def run(installed, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["XDG_CACHE_HOME"] = str(cwd)
    command = [str(installed / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def include_folder(installed, cwd):
    done = run(installed, "-c", "import trt_pose; print(trt_pose.get_include())", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_the_wheel_is_what_is_imported(installed, tmp_path):
    assert include_folder(installed, tmp_path).is_relative_to(installed)


def test_a_program_compiles_with_the_headers_of_the_wheel(installed, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    json_headers = Path(nlohmann_json.__file__).parent / "include"
    (tmp_path / "main.cpp").write_text(
        "#include <trt_pose/core.hpp>\n"
        "int main() { return trt_pose::InputSpec{}.elements() == 3 * 640 * 640 ? 0 : 1; }\n"
    )
    include = include_folder(installed, tmp_path)
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-isystem{json_headers}"]
    done = subprocess.run([*command, "main.cpp", "-o", "main"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "main"]).returncode == 0


def test_the_plugin_builds_from_the_wheel(installed, tmp_path):
    """Up to the compiler where TensorRT's headers are known, else up to the search for them."""
    headers = os.environ.get("TENSORRT_INCLUDE_DIR")
    if shutil.which("cmake") is None or shutil.which("nvcc") is None:
        pytest.skip("needs CMake and nvcc")
    code = f"from trt_pose.cli import main; main(['plugin', 'build', '--include', {headers or str(tmp_path)!r}])"
    done = run(installed, "-c", code, cwd=tmp_path)
    if headers:
        assert done.returncode == 0, done.stderr
        assert "libtrt_pose_plugins.so" in done.stdout
    else:
        assert "has no NvInferRuntimePlugin.h" in done.stderr
        cmake = include_folder(installed, tmp_path).parent.parent / "CMakeLists.txt"
        assert "tensorrt/library.cpp" in cmake.read_text(encoding="utf-8")
        for part in (
            "tensorrt/library.cpp",
            "pose_nms/pose_nms_kernel.cuh",
            "keypoint_decode/keypoint_decode_kernel.cuh",
        ):
            assert (cmake.parent / part).exists()


def test_the_source_distribution_holds_what_its_tests_need(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs the repository")
    needed = [
        name
        for name in tracked.stdout.split()
        if name.startswith(("tests/", "plugins/", "trt_pose/", "benchmarks/", "docker/")) or "/" not in name
    ]
    assert [name for name in needed if name not in names and not name.startswith(".") and name != "trt_pose/cpp"] == []
