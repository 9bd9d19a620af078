"""Folders for DeepStream: their configuration, the parser library under sanitizers, and what is refused."""

import ast
import configparser
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from trt_pose import EngineError, ExportError, UsageError
from trt_pose.cli import main
from trt_pose.deploy import deepstream
from trt_pose.trt import plugins

from ..conftest import SMALL, make_tiny
from .engines import write_engine

HERE = Path(__file__).parent / "deepstream"
SOURCES = Path(__file__).parents[2] / "plugins" / "deepstream"


@pytest.fixture(scope="module")
def float_onnx(tmp_path_factory):
    """For TensorRT, with float32 input, 128 x 160."""
    path = tmp_path_factory.mktemp("deepstream") / "float.onnx"
    options = {"engine": "tensorrt", "batch_size": "dynamic", "input_image_dtype": "float32"}
    make_tiny().export(path, max_predictions_per_image=20, **options, **SMALL)
    return path


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "plugins.so"
    path.write_bytes(b"\x7fELF library")
    return path


@pytest.fixture
def engine(float_onnx, tmp_path):
    return write_engine(float_onnx, tmp_path / "x.engine", most=4, elements=elements(num_predictions="int32"))


def elements(**changes):
    """The element types that an engine with the plugin has."""
    kinds = {"input": "float32", "num_predictions": "int32", "pred_boxes": "float32", "pred_scores": "float32"}
    return {**kinds, "pred_joints": "float32", **changes}


def test_the_configuration(engine, library, tmp_path):
    made = deepstream(engine, tmp_path / "ds", plugins=library)
    names = {path.name for path in made.folder.iterdir()}
    assert names == {
        "pose.engine", "labels.txt", "config_infer_pose.txt", "pose_probe.py", "README.md", "CMakeLists.txt",
        "trt_pose_parser.cpp", "trt_pose_meta.cpp", "trt_pose_deepstream.hpp", plugins.LIBRARY,
    }  # fmt: skip
    config = configparser.ConfigParser(interpolation=None)
    config.read(made.folder / "config_infer_pose.txt")
    found = dict(config["property"])
    assert found["infer-dims"] == "3;128;160"
    assert found["batch-size"] == "4"
    assert (found["net-scale-factor"], found["model-color-format"]) == ("1", "0")
    assert (found["maintain-aspect-ratio"], found["symmetric-padding"]) == ("1", "0")
    assert (found["network-type"], found["cluster-mode"], found["output-instance-mask"]) == ("3", "4", "1")
    assert found["output-blob-names"] == "num_predictions;pred_boxes;pred_scores;pred_joints"
    assert (made.folder / found["model-engine-file"]).exists()
    assert (made.folder / found["labelfile-path"]).read_text() == "person\n"
    function = found["parse-bbox-instance-mask-func-name"]
    assert f"bool {function}(" in (made.folder / "trt_pose_parser.cpp").read_text()
    library_name = re.search(r"add_library\((\w+)", (made.folder / "CMakeLists.txt").read_text())[1]
    assert found["custom-lib-path"] == f"build/lib{library_name}.so"
    assert float(config["class-attrs-all"]["pre-cluster-threshold"]) == 0.2
    assert "grey level 127" in str(made)
    assert "$" not in (made.folder / "README.md").read_text()


def test_a_file_that_is_padded_with_black_has_no_note(tmp_path, library):
    onnx = tmp_path / "black.onnx"
    options = {"engine": "tensorrt", "input_image_dtype": "float32", "pad_value": 0}
    make_tiny().export(onnx, **options, **SMALL)
    engine = write_engine(onnx, tmp_path / "x.engine", elements=elements())
    assert deepstream(engine, tmp_path / "ds", plugins=library).notes == ()


def test_the_probe_undoes_the_scaling(engine, library, tmp_path):
    """The function of the probe, without DeepStream, gives what the C++ gives."""
    text = (deepstream(engine, tmp_path / "ds", plugins=library).folder / "pose_probe.py").read_text()
    space: dict = {}
    kept = [node for node in ast.parse(text).body if isinstance(node, (ast.Assign, ast.FunctionDef))]
    kept = [node for node in kept if getattr(node, "name", "joints_of") == "joints_of"]
    exec(compile(ast.Module(kept, []), "probe", "exec"), space)  # noqa: S102 - our own text

    class Mask:
        size = 12 * 17
        get_mask_array = staticmethod(lambda: np.tile(np.array([80, 45, 0.5], np.float32), 17))

    frame = type("Frame", (), {"pipeline_width": 1920, "pipeline_height": 1080})
    person = type("Person", (), {"mask_params": Mask})
    assert len(space["NAMES"]) == 17
    joints = space["joints_of"](frame, person)
    assert joints[0] == pytest.approx((960, 540, 0.5))  # 160 / 1920 of the frame
    Mask.size = 0
    assert space["joints_of"](frame, person) == []


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("parser") / "parser"
    sources = [HERE / "parser_main.cpp", SOURCES / "trt_pose_parser.cpp", SOURCES / "trt_pose_meta.cpp"]
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    done = subprocess.run(
        ["g++", *flags, f"-I{HERE}", f"-I{SOURCES}", *sources, "-o", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def run(parser, case):
    done = subprocess.run([parser, case], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


PERSON = "0 0 10 100 190 0.9 3 3 36 0 1 2 3 4 5 6 7 8"


@pytest.mark.parametrize("case", ["plain", "count"])
def test_the_parser_keeps_what_is_a_person(parser, case):
    """Boxes are clamped to the image; thin ones, those below the threshold and no numbers are dropped."""
    lines, said = run(parser, case)
    assert lines == ["parsed 1", PERSON]
    assert said == ""


def test_the_parser_without_thresholds_or_people(parser):
    assert run(parser, "unset")[0] == ["parsed 2", PERSON, "0 0 0 50 50 0.1 3 3 36 18 19 20 21 22 23 24 25 26"]
    assert run(parser, "none")[0] == ["parsed 0"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "the engine gives no output pred_boxes"),
        ("type", "the output pred_boxes has the type 1, expected 0"),
        ("shape", "the outputs do not fit together"),
    ],
)
def test_the_parser_refuses_other_outputs(parser, case, words):
    lines, said = run(parser, case)
    assert lines == ["refused 0"]
    assert words in said


@pytest.mark.parametrize(
    ("case", "joints"),
    [
        ("below", "0 3 2 9 12 5 18 21 8"),  # 640 / 1920: three times
        ("around", "0 -417 2 9 -408 5 18 -399 8"),  # 140 rows of padding above
        ("stretched", "0 1.6875 2 9 6.75 5 18 11.8125 8"),
    ],
)
def test_joints_become_metadata_in_pixels_of_the_frame(parser, case, joints):
    lines, _ = run(parser, case)
    assert lines[2:] == [f"joints 3 {joints}", "mask 0, other 0", "copy 3"]


def test_what_nvinfer_cannot_run(float_onnx, tiny_dynamic_onnx, library, tmp_path):
    engine = tmp_path / "x.engine"
    refused = [
        (float_onnx, {}, UsageError, "is an .onnx file, an engine is needed"),
        (None, {"elements": elements(input="uint8")}, UsageError, "--input-dtype float32"),
        (None, {"elements": elements(num_predictions="int64")}, UsageError, "num_predictions: int64"),
        (None, {"elements": elements(), "version": "11.4.0.1"}, EngineError, "built by TensorRT 11.4.0.1"),
        (None, {"elements": elements(), "options": {"version_compatible": True}}, EngineError, "--versionCompatible"),
        (None, {"elements": elements(pred_boxes="bool")}, UsageError, "pred_boxes of x.engine is bool"),
    ]
    for path, changes, error, words in refused:
        model = path or write_engine(float_onnx, engine, **changes)
        with pytest.raises(error, match=re.escape(words)):
            deepstream(model, tmp_path / "ds", plugins=library)
    assert not (tmp_path / "ds").exists()


def test_the_command(engine, library, tmp_path, capsys):
    words = ["deploy", "deepstream", str(engine), "-o", str(tmp_path / "ds"), "--plugins", str(library)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert "nvinfer pads with black" in capsys.readouterr().out
    with pytest.raises(ExportError, match="exists already"):
        deepstream(engine, tmp_path / "ds", plugins=library)
