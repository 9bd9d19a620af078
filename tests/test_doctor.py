import importlib.metadata
import importlib.util
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from trt_pose import RunnerError
from trt_pose.choices import Precision
from trt_pose.cli import main
from trt_pose.doctor import examine
from trt_pose.graphs.file import read_spec, set_metadata
from trt_pose.inspection import inspect
from trt_pose.quantization import QuantizeOptions, quantize
from trt_pose.spec import METADATA_KEY

from .attachment.test_attach import write
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
        assert ("plugins 1 from" in line.detail) if line.fine else ("pip install" in line.detail)


def test_files_for_either_runtime(files):
    assert by_name(examine(files / "ort.onnx"))["in onnxruntime"].fine
    found = by_name(examine(files / "trt.onnx"))
    assert "its plugin nodes in ONNX's own operators" in found["in onnxruntime"].detail
    assert "PoseNMS_TRT" in found["file"].detail


@pytest.mark.tensorrt
def test_files_for_tensorrt(files):
    for name in ("tensorrt", "tensorrt_rtx"):
        if importlib.util.find_spec(name):
            assert by_name(examine(files / "trt.onnx"))[f"in {name}"].fine
            plain = by_name(examine(files / "ort.onnx"))[f"in {name}"]
            assert plain.fine is (None if name == "tensorrt_rtx" else True)


def test_a_second_opencv_is_noticed(monkeypatch):
    versions = {"opencv-python": "5.0.0"}
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    found = by_name(examine())["opencv-python"]
    assert found.fine is None
    assert "pip install --force-reinstall --no-deps opencv-python-headless" in found.detail


def test_a_provider_that_does_not_load_says_why(broken_cuda_provider, monkeypatch):
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    found = by_name(examine())
    assert found["onnxruntime providers"].detail == "CPU"
    assert found["onnxruntime CUDA"].fine is None
    assert "CUDA provider does not load: " in found["onnxruntime CUDA"].detail


@pytest.mark.parametrize(
    ("names", "fine", "words"),
    [(["CPUExecutionProvider"], None, "lacks CUDA. Run: pip"), (["CUDAExecutionProvider"], True, "1.31.0")],
    ids=["under", "over"],
)
def test_onnxruntime_for_a_gpu_beside_that_for_the_cpu(monkeypatch, names, fine, words):
    """Both packages fill the same folder: what the one in it offers says which of them it is."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.31.0" if name == "onnxruntime-gpu" else real(name)
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    found = by_name(examine())["onnxruntime-gpu"]
    assert found.fine is fine
    assert words in found.detail


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


def test_files_of_other_toolkits(tmp_path, capsys):
    their = write(tmp_path / "their.onnx", "yolov8-pose")
    found = by_name(examine(their))
    assert "fits yolov8-pose: trt-pose attach their.onnx" in found["file"].detail
    assert found["in onnxruntime"].fine
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(their)])
    text = capsys.readouterr().out
    assert all(word in text for word in ("of another toolkit (fp32)", "yolov8-pose", "images", "output0", "Conv"))


def test_a_file_of_no_known_head(tmp_path):
    their = write(tmp_path / "their.onnx", "decoded")
    proto = onnx.load(their)
    del proto.graph.output[2]
    proto.metadata_props.add(key="author", value="somebody")
    onnx.save(proto, their)
    found = inspect(their)
    assert (found.spec, found.heads, found.metadata, found.refusal) == (None, (), {"author": "somebody"}, "")
    assert "fit no head" in by_name(examine(their))["file"].detail


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
def test_precision_is_read_off_the_graph(files, tmp_path, precision):
    path = files / "ort.onnx"
    if precision != "fp32":
        path = tmp_path / "q.onnx"
        batch = np.sort(np.random.default_rng(0).integers(0, 256, (1, 3, 128, 160), dtype=np.uint8), axis=3)  # no noise
        quantize(files / "ort.onnx", path, [batch], QuantizeOptions(precision=Precision(precision)))
    proto = onnx.load(path)
    spec = read_spec(proto)
    assert (inspect(path).precision, spec.precision) == (precision, precision)
    set_metadata(proto, METADATA_KEY, replace(spec, precision="fp32").to_json())
    onnx.save(proto, tmp_path / "wrong.onnx")
    assert inspect(tmp_path / "wrong.onnx").precision == precision
