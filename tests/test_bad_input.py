"""Bad input, one row each: one sentence on stderr, exit code 1, and nothing written."""

import os
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from trt_pose.cli import main

from .conftest import make_tiny


def grey(level=0, shape=(8, 8, 3)):
    return np.full(shape, level, np.uint8)


class Code:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny_onnx, photo_path):
    """A folder with everything that can be wrong in it."""
    room = tmp_path_factory.mktemp("room")
    data = photo_path.read_bytes()
    (room / "good.onnx").write_bytes(tiny_onnx.read_bytes())
    (room / "good.jpg").write_bytes(data)
    (room / "truncated.jpg").write_bytes(data[:20_000])
    (room / "empty.jpg").write_bytes(b"")
    (room / "text.jpg").write_text("no picture")
    (room / "text.mp4").write_text("no film")
    (room / "nothing").mkdir()
    (room / "texts").mkdir()
    (room / "texts" / "a.txt").write_text("no picture")
    (room / "one-bad").mkdir()
    (room / "one-bad" / "a.png").write_bytes(b"\x89PNG")
    (room / "half.onnx").write_bytes(tiny_onnx.read_bytes()[:5000])
    (room / "empty.onnx").write_bytes(b"")
    (room / "text.onnx").write_text("no model")
    (room / "text.engine").write_text("no engine")
    make_foreign(room / "foreign.onnx")
    make_tiny().export(room / "raw.onnx", postprocessing=False, input_image_shape=64, verification=False)
    make_tiny().export(room / "bare.onnx", preprocessing=False, input_image_shape=64, verification=False)
    spec = onnx.load(tiny_onnx)
    spec.metadata_props[0].value = '{"version": 1, "model": 3}'
    onnx.save(spec, room / "garbled.onnx")
    spec.metadata_props[0].value = '{"version": 99}'
    onnx.save(spec, room / "newer.onnx")
    (room / "text.pth").write_text("no weights")
    (room / "empty.pth").write_bytes(b"")
    (room / "code.pth").write_bytes(pickle.dumps(Code()))
    torch.save({"net": make_tiny().state_dict()}, room / "tiny.pth")
    torch.save({"weight": torch.zeros(3)}, room / "foreign.pth")
    torch.save([1], room / "list.pth")
    (room / "readonly").mkdir()
    return room


def make_foreign(path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


PREDICT = ("predict", "good.onnx", "good.jpg")
EXPORT = ("export", "yolo_nas_pose_n", "-o", "out.onnx")
CASES = {
    "image: truncated": ("truncated", "predict", "good.onnx", "truncated.jpg"),
    "image: empty file": ("empty", "predict", "good.onnx", "empty.jpg"),
    "image: text": ("not an image", "predict", "good.onnx", "text.jpg"),
    "image: missing": ("no such file", "predict", "good.onnx", "missing.jpg"),
    "image: empty folder": ("no images", "predict", "good.onnx", "nothing"),
    "image: folder of texts": ("no images", "predict", "good.onnx", "texts"),
    "image: glob without match": ("no images", "predict", "good.onnx", "nothing/*.png"),
    "image: one bad among others": (r"a\.png", "predict", "good.onnx", "one-bad"),
    "image: url out of reach": ("fetching", "predict", "good.onnx", "http://127.0.0.1:9/a.jpg"),
    "video: text": ("not a video that FFmpeg can read", "predict", "good.onnx", "text.mp4"),
    "video: no camera": ("camera 63", "predict", "good.onnx", "63"),
    "model: missing": ("no such file", "predict", "missing.onnx", "good.jpg"),
    "model: folder": ("folder", "predict", "folder.onnx", "good.jpg"),
    "model: half": ("cannot load it", "predict", "half.onnx", "good.jpg"),
    "model: empty": ("cannot load it", "predict", "empty.onnx", "good.jpg"),
    "model: text": ("cannot load it", "predict", "text.onnx", "good.jpg"),
    "model: engine": ("are not an engine", "predict", "text.engine", "good.jpg"),
    "model: checkpoint": (r"expected \.onnx", "predict", "text.pth", "good.jpg"),
    "model: foreign": ("no trt_pose description", "predict", "foreign.onnx", "good.jpg"),
    "model: garbled description": ("not a trt_pose description", "predict", "garbled.onnx", "good.jpg"),
    "model: newer description": ("Upgrade", "predict", "newer.onnx", "good.jpg"),
    "model: raw outputs": ("postprocessing", "predict", "raw.onnx", "good.jpg"),
    "model: bare input": ("preprocessing", "predict", "bare.onnx", "good.jpg"),
    "inspect: missing": ("no such file", "inspect", "missing.onnx"),
    "predict: threshold too low": ("expected 0.2", *PREDICT, "--conf", "0.1"),
    "predict: threshold above one": ("--conf: got 1.5, expected 0 to 1", *PREDICT, "--conf", "1.5"),
    "predict: no threads": ("--threads: got 0, expected 1 to 1024", *PREDICT, "--threads", "0"),
    "predict: other batch": ("expected 1", *PREDICT, "--batch", "4"),
    "predict: unknown provider": ("npu", *PREDICT, "--provider", "npu"),
    "predict: bf16 on plain cpu": (
        "OpenVINO",
        "predict",
        "good.onnx",
        "good.jpg",
        "--provider",
        "cpu",
        "--precision",
        "bf16",
    ),
    "predict: unknown precision": ("fp32 or bf16", *PREDICT, "--precision", "fp4"),
    "predict: save into a file": ("writable", *PREDICT, "--save", "good.onnx"),
    "predict: save over a picture": ("a source of this run", *PREDICT, "--save", "good.jpg"),
    "predict: json into a folder": ("folder", *PREDICT, "--json", "nothing"),
    "export: unknown model": ("expected one of", "export", "yolo9", "-o", "out.onnx"),
    "export: weights missing": ("no such file", *EXPORT, "--weights", "missing.pth"),
    "export: weights folder": ("folder", *EXPORT, "--weights", "nothing"),
    "export: weights text": ("damaged", *EXPORT, "--weights", "text.pth"),
    "export: weights empty": ("damaged", *EXPORT, "--weights", "empty.pth"),
    "export: weights with code": ("can run code", *EXPORT, "--weights", "code.pth"),
    "export: weights of another family": ("unexpected", *EXPORT, "--weights", "foreign.pth"),
    "export: weights of another size": ("another shape", *EXPORT, "--weights", "tiny.pth"),
    "export: weights of a list": ("holds a list", *EXPORT, "--weights", "list.pth"),
    "export: other joints": ("17 joints", *EXPORT, "--weights", "tiny.pth", "--joints", "5"),
    "export: size no multiple of 32": ("multiples of 32", *EXPORT, "--weights", "none", "--imgsz", "100"),
    "export: size zero": ("multiples of 32", *EXPORT, "--weights", "none", "--imgsz", "0"),
    "export: size of words": ("SIZE or H W", *EXPORT, "--weights", "none", "--imgsz", "big"),
    "export: threshold above one": ("--conf: got 2, expected 0 to 1", *EXPORT, "--weights", "none", "--conf", "2"),
    "export: negative iou": ("--iou: got -1, expected 0 to 1", *EXPORT, "--weights", "none", "--iou=-1"),
    "export: batch zero": ("whole number", *EXPORT, "--weights", "none", "--batch", "0"),
    "export: batch of words": ("dynamic", *EXPORT, "--weights", "none", "--batch", "some"),
    "export: unknown format": (
        "--format: got 'rows', expected batch or flat",
        *EXPORT,
        "--weights",
        "none",
        "--format",
        "rows",
    ),
    "export: unknown backend": (
        "--backend: got 'tvm', expected onnxruntime or tensorrt",
        *EXPORT,
        "--weights",
        "none",
        "--backend",
        "tvm",
    ),
    "export: old opset": ("--opset: got 7, expected 16..20", *EXPORT, "--weights", "none", "--opset", "7"),
    "export: no folder": ("No such file", "export", "yolo_nas_pose_n", "-o", "no/such/out.onnx", "--weights", "none"),
    "export: output is a folder": ("folder", "export", "yolo_nas_pose_n", "-o", "nothing", "--weights", "none"),
}


@pytest.mark.filterwarnings("default::UserWarning")  # "has no weights" is not what these cases are about
@pytest.mark.parametrize("case", CASES)
def test_one_sentence_exit_one_nothing_written(case, room, monkeypatch, capfd):
    words, *arguments = CASES[case]
    monkeypatch.chdir(room)
    monkeypatch.setattr("sys.argv", ["trt-pose"])
    Path("folder.onnx").mkdir(exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in room.rglob("*")}
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capfd.readouterr()  # what libraries write past Python included
    errors = [line for line in captured.err.splitlines() if not line.startswith("warning: ")]
    assert stopped.value.code == 1, captured.err
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("error: ")
    assert re.search(words, errors[0]), errors[0]
    assert captured.out == ""
    assert before == {path: path.stat().st_mtime_ns for path in room.rglob("*")}


@pytest.mark.parametrize(
    "picture",
    [
        grey(9, (1, 1, 3)),
        grey(9, (8, 8)),
        grey(9, (8, 8, 4)),
        np.full((8, 8, 3), 40000, np.uint16),
        grey(9, (1, 500, 3)),
    ],
    ids=["1x1", "grey", "rgba", "16-bit", "1x500"],
)
def test_unusual_images_are_fine(picture, room, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(room / "good.onnx"), str(tmp_path / "a.png")])
    assert not stopped.value.code
    assert "a.png" in capsys.readouterr().out


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    from trt_pose import ExportError
    from trt_pose.graphs import file as graphs_file

    target = tmp_path / "m.onnx"
    target.write_text("the old file")

    def full(proto, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graphs_file.onnx, "save", full)
    with pytest.raises(ExportError, match="No space left on device"):
        make_tiny().export(target, input_image_shape=64, verification=False)
    assert target.read_text(encoding="utf-8") == "the old file"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_code_in_a_checkpoint_was_not_run(room):
    assert not (room / "executed").exists()
