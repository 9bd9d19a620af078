"""engine.hpp and the examples, compiled with TensorRT's public headers, and run as far as no GPU is needed."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import nlohmann_json
import numpy as np
import pytest

from ..kernel_on_cpu import PLUGINS

RUNTIME = PLUGINS / "runtime"
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))

pytestmark = [
    pytest.mark.skipif(not (CUDA / "include" / "cuda_runtime_api.h").exists(), reason="needs the CUDA toolkit"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


def compile_example(name, headers, *arguments):
    folders = (nlohmann_json.get_include(), headers, CUDA / "include")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", RUNTIME / "include"]
    command += [word for folder in folders for word in ("-isystem", folder)]
    done = subprocess.run(
        [*map(str, [*command, RUNTIME / "examples" / f"{name}.cpp", *arguments])], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", ["pose_image", "pose_stream"])
def test_the_examples_compile_without_a_warning(name, headers):
    compile_example(name, headers, "-fsyntax-only")


def test_the_sizes_of_elements(headers, tmp_path):
    kinds = {"kFLOAT": 4, "kINT32": 4, "kHALF": 2, "kBF16": 2, "kINT64": 8, "kINT8": 1, "kUINT8": 1, "kBOOL": 1}
    lines = ["#include <trt_pose/engine.hpp>", "using trt_pose::detail::sizeOf;"]
    lines += [f"static_assert(sizeOf(nvinfer1::DataType::{name}) == {size});" for name, size in kinds.items()]
    (tmp_path / "sizes.cpp").write_text("\n".join(lines))
    compile_example(tmp_path / "sizes", headers, "-fsyntax-only")


@pytest.fixture(scope="module")
def program(headers, tmp_path_factory):
    """pose_image, linked with TensorRT-RTX's library: enough to see what it says where it cannot run."""
    if importlib.util.find_spec("tensorrt_rtx_libs") is None or not (CUDA / "lib64" / "libcudart_static.a").exists():
        pytest.skip("needs tensorrt_rtx and the static CUDA runtime")
    libraries = Path(importlib.util.find_spec("tensorrt_rtx_libs").origin).parent
    path = tmp_path_factory.mktemp("program") / "pose_image"
    compile_example(
        "pose_image", headers, "-o", path, libraries / "libtensorrt_rtx.so.1", f"-Wl,-rpath,{libraries}",
        CUDA / "lib64" / "libcudart_static.a", "-ldl", "-lpthread", "-lrt",
    )  # fmt: skip
    return path


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.stderr.count("\n") <= 1
    return done.returncode, done.stderr


def test_what_it_says_where_it_cannot_run(program, tiny_onnx, tmp_path):
    from trt_pose import open_runner

    from .test_core import describe

    (tmp_path / "image.ppm").write_bytes(b"P6\n2 1\n255\n" + np.zeros(6, np.uint8).tobytes())
    assert run(program)[0] == 2
    code, text = run(program, tmp_path / "m.engine", tmp_path / "image.ppm")
    assert (code, "there is no description" in text) == (1, True)
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        engine = describe(tmp_path, runner.spec)
    assert "there is no such file" in run(program, engine, tmp_path / "image.ppm")[1]
    engine.write_bytes(b"ftrt")
    assert "no TensorRT plan, or a truncated one" in run(program, engine, tmp_path / "image.ppm")[1]
    if not shutil.which("nvidia-smi"):
        engine.write_bytes(b"ftrt" + bytes(100))
        assert "CUDA answered" in run(program, engine, tmp_path / "image.ppm")[1]
