"""core.hpp, compiled by g++, against the Python package: the same input bytes, the same results, the same refusals."""

import json
import os
import shutil
import subprocess
from dataclasses import asdict, replace

import nlohmann_json
import numpy as np
import pytest

from trt_pose import Poses, open_runner
from trt_pose.images.pixels import letterbox
from trt_pose.predictor import place
from trt_pose.results.detections import Detections
from trt_pose.trt.sidecar import Sidecar

from ..kernel_on_cpu import PLUGINS, compile_cpp

RUNTIME = PLUGINS / "runtime"
JSON = nlohmann_json.get_include()


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    program = tmp_path_factory.mktemp("core") / "core_cli"
    compile_cpp("-std=c++17", "-O2", "-isystem", JSON, "-o", program, RUNTIME / "cpu" / "core_cli.cpp")
    return program


def describe(folder, spec, /, **changes):
    """A sidecar as the builder writes it; returns the name of its engine."""
    sidecar = Sidecar(spec, "", 1, "", "tensorrt", "11.4.0", plugins=spec.plugins_required)
    (folder / "m.engine.json").write_text(json.dumps({**json.loads(sidecar.to_json()), **changes}))
    return folder / "m.engine"


def run(core, folder, engine, image, *outputs):
    (folder / "image.rgb").write_bytes(np.ascontiguousarray(image).tobytes())
    files = []
    for index, values in enumerate(outputs[:4]):
        (folder / f"{index}.bin").write_bytes(np.ascontiguousarray(values).tobytes())
        files.append(folder / f"{index}.bin")
    command = [core, engine, image.shape[1], image.shape[0], folder / "image.rgb", folder / "input.out"]
    done = subprocess.run([*map(str, [*command, *files, *outputs[4:]])], capture_output=True, text=True)
    return done, folder / "input.out"


@pytest.mark.parametrize("policy", ["longest_side", "center", "stretch", "float32"])
def test_the_letterbox_is_pythons(core, tiny_onnx, tmp_path, photograph, policy):
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        spec = runner.spec
    change = {
        "longest_side": {}, "center": {"padding": "center", "resize_to": (120, 156), "pad_value": 114},
        "stretch": {"resize": "stretch"}, "float32": {"dtype": "float32"},
    }[policy]  # fmt: skip
    spec = replace(spec, input=replace(spec.input, **change))
    engine = describe(tmp_path, spec)
    for height, width in ((512, 512), (100, 333), (511, 77), (1, 9), (128, 160)):
        image = photograph[:height, :width]
        done, written = run(core, tmp_path, engine, image)
        assert done.returncode == 0, done.stderr
        want, _ = letterbox(image, spec.input)
        np.testing.assert_array_equal(np.fromfile(written, spec.input.dtype).reshape(want.shape), want)


def test_poses_are_pythons(core, tiny_onnx, tmp_path, photograph):
    image = photograph[:300, 50:450]
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        spec = runner.spec
        pixels, (placed,) = place([image], spec.input)
        outputs = runner.run({"input": pixels})
    arrays = [outputs[name] for name in ("num_predictions", "pred_boxes", "pred_scores", "pred_joints")]
    arrays[0] = arrays[0].astype(np.int32)
    for threshold in (0.0, 0.4):
        done, _ = run(core, tmp_path, describe(tmp_path, spec), image, *arrays, arrays[1].shape[1], threshold)
        assert done.returncode == 0, done.stderr
        want = Poses.from_outputs(outputs, spec, 0, placed, threshold).to_dicts()
        assert len(want) > 1
        assert_close(json.loads(done.stdout), want)


def test_detections_are_pythons(core, tmp_path, photograph, rng):
    from ..export.test_detection_export import OPTIONS, tiny

    spec = tiny("yolo_nas").export(tmp_path / "d.onnx", verification=False, **OPTIONS).spec
    limit, count = 20, 7
    outputs = {
        "num_predictions": np.array([[count]], np.int32),
        "pred_boxes": rng.normal(80, 40, (1, limit, 4)).astype(np.float32),
        "pred_scores": -np.sort(-rng.uniform(0.3, 1, (1, limit)).astype(np.float32)),
        "pred_classes": rng.integers(0, 6, (1, limit)).astype(np.int32),
    }
    done, _ = run(core, tmp_path, describe(tmp_path, spec), photograph, *outputs.values(), limit, 0.5)
    placed = letterbox(photograph, spec.input)[1]
    want = Detections.from_outputs(outputs, spec, 0, placed, 0.5).to_dicts()
    assert len(want) > 2
    assert_close(json.loads(done.stdout), want)


def assert_close(found, want):
    """Dicts and lists alike, numbers to the last digits a float has."""
    if isinstance(want, dict):
        assert set(found) == set(want)
        for name, value in want.items():
            assert_close(found[name], value)
    elif isinstance(want, list):
        assert len(found) == len(want)
        for first, second in zip(found, want, strict=True):
            assert_close(first, second)
    elif isinstance(want, float):
        assert found == pytest.approx(want, rel=1e-6, abs=1e-6)
    else:
        assert found == want


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (None, "there is no description beside the engine"),
        ("", "not a description of an engine"),
        ("{}", "not a description of an engine"),
        ({"trt_pose_engine": 99}, "a newer version. Upgrade trt_pose"),
        ({"spec": {"version": 99}}, "a newer description. Upgrade trt_pose"),
        ({"flavor": 3}, "not a description of an engine"),
    ],
    ids=str,
)
def test_descriptions_that_are_none(core, tiny_onnx, tmp_path, photograph, damage, words):
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        engine = describe(tmp_path, runner.spec, **(damage if isinstance(damage, dict) else {}))
    if damage is None:
        (tmp_path / "m.engine.json").unlink()
    elif isinstance(damage, str):
        (tmp_path / "m.engine.json").write_text(damage)
    done, written = run(core, tmp_path, engine, photograph)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not written.exists()


def test_an_image_without_pixels(core, tiny_onnx, tmp_path):
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        engine = describe(tmp_path, runner.spec)
    done, _ = run(core, tmp_path, engine, np.zeros((0, 5, 3), np.uint8))
    assert "it has no pixels" in done.stderr


def test_the_fields_it_reads_are_those_python_writes(tiny_onnx):
    """A field core.hpp asks for and Python no longer writes would only show on a user's machine."""
    import re

    text = (RUNTIME / "include" / "trt_pose" / "core.hpp").read_text(encoding="utf-8")
    asked = set(re.findall(r'at\("(\w+)"\)', text))
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        spec = asdict(runner.spec)
    sidecar = json.loads(Sidecar(runner.spec, "", 1, "", "tensorrt", "1").to_json())
    known = {*sidecar, *spec, *spec["input"], *spec["output"], *spec["skeleton"]}
    assert len(asked) > 20
    assert asked <= known


def test_an_outside_project_uses_the_installed_package(core, tmp_path, tiny_onnx):
    """find_package(trt_pose) after cmake --install, from a folder that knows nothing of this repository."""
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    cmake(["-S", RUNTIME, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DNLOHMANN_JSON_INCLUDE_DIR={JSON}"])
    cmake(["--install", build])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(outside LANGUAGES CXX)\n"
        "find_package(trt_pose 0.1 REQUIRED)\nadd_executable(outside main.cpp)\n"
        "target_link_libraries(outside PRIVATE trt_pose::core)\n"
    )
    (outside / "main.cpp").write_text(
        "#include <trt_pose/core.hpp>\n#include <iostream>\n"
        "int main(int, char** a) { std::cout << trt_pose::readSidecar(a[1]).spec.jointCount() << std::endl; }\n"
    )
    cmake(["-S", outside, "-B", outside / "b", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DNLOHMANN_JSON_INCLUDE_DIR={JSON}"])
    cmake(["--build", outside / "b"])
    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        engine = describe(tmp_path, runner.spec)
    done = subprocess.run([outside / "b" / "outside", engine], capture_output=True, text=True)
    assert done.stdout.strip() == "17"


def cmake(arguments):
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
