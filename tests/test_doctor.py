import importlib.util
import json

import pytest

from trt_pose import RunnerError
from trt_pose.cli import main
from trt_pose.doctor import examine

from .conftest import SMALL


def by_name(findings):
    return {finding.what: finding for finding in findings}


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    tiny.export(folder / "ort.onnx", verification=False, **SMALL)
    tiny.export(folder / "trt.onnx", engine="tensorrt", verification=False, **SMALL)
    return folder


def test_the_installation():
    found = by_name(examine())
    assert found["numpy"].fine
    assert "CPU" in found["onnxruntime providers"].detail
    for name in ("tensorrt", "tensorrt_rtx"):
        line = found[name]
        assert line.fine is not False
        assert ("PoseNMS_TRT 1 from" in line.detail) if line.fine else ("pip install" in line.detail)


def test_files_for_either_runtime(files):
    assert by_name(examine(files / "ort.onnx"))["in onnxruntime"].fine
    found = by_name(examine(files / "trt.onnx"))
    assert "the plugin node in ONNX's own operators" in found["in onnxruntime"].detail
    assert "PoseNMS_TRT" in found["file"].detail


@pytest.mark.tensorrt
def test_files_for_tensorrt(files):
    for name in ("tensorrt", "tensorrt_rtx"):
        if importlib.util.find_spec(name):
            assert by_name(examine(files / "trt.onnx"))[f"in {name}"].fine
            plain = by_name(examine(files / "ort.onnx"))[f"in {name}"]
            assert plain.fine is (None if name == "tensorrt_rtx" else True)


def test_another_project_of_the_same_name_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "trt_pose").mkdir()
    (tmp_path / "trt_pose" / "parse_objects.py").touch()
    assert "another trt_pose" not in by_name(examine())
    monkeypatch.syspath_prepend(tmp_path)
    found = by_name(examine())["another trt_pose"]
    assert found.fine is False
    assert "NVIDIA-AI-IOT/trt_pose" in found.detail


def test_on_the_command_line(files, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(files / "trt.onnx"), "--json"])
    assert stopped.value.code == 0
    assert {row["what"] for row in json.loads(capsys.readouterr().out)} >= {"python", "file", "tensorrt"}


def test_files_that_are_none(tmp_path):
    with pytest.raises(RunnerError, match="no such file"):
        examine(tmp_path / "missing.onnx")
