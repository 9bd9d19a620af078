"""The commands, run as a user runs them."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import onnx
import pytest

from trt_pose.cli import main, program

from .conftest import SMALL, make_model


def call(*arguments):
    """Runs a command in this process; returns the exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_version_and_help(capsys):
    import trt_pose

    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"trt-pose {trt_pose.__version__}"
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("models", "export", "predict", "inspect"))


def test_an_opencv_that_needs_a_display_is_said(monkeypatch, capsys):
    def fail(**_options):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(program, "app", fail)
    assert call("models") == 1
    assert "error: importing cv2: libGL.so.1: cannot open" in capsys.readouterr().err


def test_models(capsys):
    assert call("models") == 0
    assert "yolo_nas_pose_l" in capsys.readouterr().out
    assert call("models", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    names = {task: [entry["name"] for entry in listed if entry["task"] == task] for task in ("pose", "detection")}
    assert names["pose"] == [*(f"yolo_nas_pose_{size}" for size in "nsml"), "keypointrcnn_resnet50_fpn", "demo"]
    assert names["detection"] == [*(f"yolo_nas_{size}" for size in "sml"), *(f"ppyoloe_{size}" for size in "smlx")]


def test_resizing_is_for_keypoint_rcnn(tmp_path, capsys):
    arguments = ("export", "yolo_nas_pose_n", "-o", str(tmp_path / "m.onnx"), "--weights", "none", "--divisor", "32")
    assert call(*arguments) == 1
    assert "yolo_nas_pose_n has neither" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save({"ema_net": make_model("yolo_nas_pose_n").state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "n.onnx"
    arguments = ["export", "yolo_nas_pose_n", "-o", path, "--weights", checkpoint, "--imgsz", "128", "160"]
    assert call(*arguments, "--conf", "0.3", "--iou", "0.5", "--max-det", "4", "--pre-nms", "200") == 0
    return path


def test_export_writes_what_was_asked_for(exported):
    metadata = {item.key: item.value for item in onnx.load(exported).metadata_props}
    spec = json.loads(metadata["trt_pose"])
    assert (spec["input"]["height"], spec["input"]["width"], spec["weights"]) == (128, 160, "best.pth")
    assert spec["output"]["confidence_threshold"] == 0.3
    assert spec["output"]["nms_threshold"] == 0.5
    assert spec["output"]["max_predictions_per_image"] == 4


@pytest.mark.parametrize(
    ("options", "batch", "output_format"),
    [(["--format", "flat", "--batch", "2"], 2, "flat"), (["--batch", "dynamic", "--imgsz", "64"], None, "batch")],
)
def test_export_formats(checkpoint, tmp_path, capsys, options, batch, output_format):
    path = tmp_path / "n.onnx"
    assert (
        call("export", "yolo_nas_pose_n", "-o", path, "--weights", checkpoint, "--imgsz", 96, "--json", *options) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["output"] == str(path)
    assert printed["spec"]["input"]["batch"] == batch
    assert printed["spec"]["output"]["format"] == output_format


def test_predict_prints_a_table(exported, photo_path, capsys):
    assert call("predict", exported, photo_path, "--provider", "cpu") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"\S+astronaut.jpg: \d (people|person)\n", out)
    assert re.search(r"1 image, \d \w+; each \S+ ms decode, \S+ ms letterbox, \S+ ms run, \S+ ms read", err)
    assert call("predict", exported, photo_path, "-v") == 0
    assert "surest joints" in capsys.readouterr().out


def test_predict_saves_pictures_and_json(exported, photo_path, tmp_path, capsys):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo_path.read_bytes())
    done = tmp_path / "done"
    assert call("predict", exported, tmp_path, "--save", done, "--json", tmp_path / "poses.json") == 0
    records = json.loads((tmp_path / "poses.json").read_text(encoding="utf-8"))
    people = len(records[0]["poses"])
    assert 1 <= people <= 4
    assert [len(record["poses"]) for record in records] == [people, people]
    assert {path.name for path in done.iterdir()} == {"a.jpg", "b.jpg"}


def test_the_source_is_never_overwritten(exported, photo_path, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(photo_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for source in ("a.jpg", "."):
        for overwrite in ([], ["--overwrite"]):
            assert call("predict", exported, source, "--save", ".", *overwrite) == 0
            assert (tmp_path / "a.jpg").read_bytes() == photo_path.read_bytes()
        assert (tmp_path / "a_poses.jpg").exists()
        (tmp_path / "a_poses.jpg").unlink()


@pytest.mark.parametrize("option", ["--json", "--jsonl", "--csv"])
@pytest.mark.parametrize("target", ["a.jpg", "model.onnx"])
def test_records_never_replace_what_is_read(exported, photo_path, tmp_path, monkeypatch, capsys, option, target):
    """Neither a picture nor the model, also with --overwrite."""
    monkeypatch.chdir(tmp_path)
    for name, source in (("a.jpg", photo_path), ("model.onnx", exported)):
        (tmp_path / name).write_bytes(source.read_bytes())
    before = (tmp_path / target).read_bytes()
    assert call("predict", "model.onnx", "a.jpg", option, target, "--overwrite") == 1
    assert f"writing {target}: it is a source of this run. Name another file." in capsys.readouterr().err
    assert (tmp_path / target).read_bytes() == before


def test_a_missing_viewer_is_said_before_the_run(exported, photo_path, tmp_path, monkeypatch, capsys):
    import webbrowser

    def fail(*_names):
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", fail)
    assert call("predict", exported, photo_path, "--show", "--json", tmp_path / "o.json") == 1
    found = capsys.readouterr()
    assert "showing pictures: no viewer on this machine. Use --save instead." in found.err
    assert (found.out, list(tmp_path.iterdir())) == ("", [])


def test_no_folder_is_left_behind_by_a_model_that_does_not_open(photo_path, tmp_path):
    assert call("predict", tmp_path / "missing.onnx", photo_path, "--save", tmp_path / "new") == 1
    assert not (tmp_path / "new").exists()


def test_results_stay_on_stdout_beside_a_progress_bar(exported, photo_path, tmp_path):
    """stderr is a terminal, stdout a file: as in `trt-pose predict ... > poses.txt`."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trt_pose.cli", "predict", str(exported), str(photo_path)]
    with (tmp_path / "out.txt").open("w") as out:
        assert subprocess.run(command, stdout=out, stderr=theirs).returncode == 0
    import os

    os.close(theirs)
    os.close(ours)
    assert re.search(r"astronaut\.jpg: \d (people|person)", (tmp_path / "out.txt").read_text(encoding="utf-8"))


def test_names_are_not_markup(capsys):
    from trt_pose.cli.app import print_table

    print_table(("joint",), [("[/x]",), ("best[v2].pth",), (":smile:",)])
    out = capsys.readouterr().out
    assert "[/x]" in out
    assert "best[v2].pth" in out
    assert ":smile:" in out


def test_predict_json_alone_on_stdout(exported, photo_path, capsys):
    assert call("predict", exported, photo_path, "--json", "-") == 0
    captured = capsys.readouterr()
    (record,) = json.loads(captured.out)
    assert record["width"] == 512
    assert set(record["poses"][0]["joints"]["nose"]) == {"x", "y", "confidence"}


def test_inspect(exported, capsys):
    assert call("inspect", exported) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("yolo_nas_pose_n", "NonMaxSuppression", "pred_joints", "1 x 4 x 17 x 3", "nose")
    )
    assert call("inspect", exported, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"]["Conv"] > 100
    assert found["inputs"]["input"] == {"dtype": "uint8", "shape": [1, 3, 128, 160]}


def test_inspect_reads_files_for_tensorrt_too(tiny, tmp_path, capsys):
    tiny.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, batch_size="dynamic", **SMALL)
    assert call("inspect", tmp_path / "m.onnx", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"]["PoseNMS_TRT"] == 1
    assert found["inputs"]["input"] == {"dtype": "uint8", "shape": [None, 3, 128, 160]}
    assert found["outputs"]["num_predictions"] == {"dtype": "int32", "shape": [None, 1]}


def test_wrong_usage_exits_with_two(capsys):
    assert call("export", "yolo_nas_pose_n") == 2
    assert call("predict", "--nonsense") == 2
    capsys.readouterr()
    assert call("predict", "a.onnx", "b.jpg", "--batch", "x") == 1
    assert capsys.readouterr().err == "error: --batch: got 'x', expected a whole number\n"


def test_errors_are_one_sentence_on_stderr_and_exit_one(tmp_path):
    command = [sys.executable, "-m", "trt_pose.cli", "predict", str(tmp_path / "missing.onnx"), "x.jpg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: opening ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_traceback():
    shell = f"{sys.executable} -m trt_pose.cli models --json | head -c 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_quantize_compare_and_build(tiny_onnx, tiny_plugin_onnx, picture_folder, tmp_path, capsys):
    quantized, report = tmp_path / "q.onnx", tmp_path / "r.html"
    assert call("quantize", tiny_onnx, "-o", quantized, "--images", picture_folder, "--exclude", "head1") == 0
    out = capsys.readouterr().out
    assert "layers in INT8, entropy over 6 images" in out
    assert "excluded" in out
    assert call("quantize", tiny_onnx, "-o", tmp_path / "h.onnx", "--precision", "fp16", "--json") == 0
    assert min(json.loads(capsys.readouterr().out)["noise_db"].values()) > 50
    assert call("compare", tiny_onnx, tmp_path / "h.onnx", "--images", picture_folder, "--max-oks-loss", "0.2") == 0
    assert "found by both" in capsys.readouterr().out
    assert call("compare", tiny_onnx, quantized, "--images", picture_folder, "--max-oks-loss", "0", "--tensors") == 1
    assert "noisiest tensors" in capsys.readouterr().out
    options = ("--images", picture_folder, "--report", report, "--json")
    assert call("compare", tiny_onnx, tmp_path / "h.onnx", *options) == 0
    assert json.loads(capsys.readouterr().out)["total"]["matched"] > 50
    assert report.exists()


def test_quantize_options_that_would_do_nothing(tiny_onnx, tiny_plugin_onnx, picture_folder, tmp_path, capsys):
    output = tmp_path / "q.onnx"
    for arguments, words in (
        (("--precision", "fp16", "-o", output, "--exclude", "stem"), "--exclude belong to INT8"),
        (("--precision", "fp16", "-o", output, "--method", "mse"), "--method belong to INT8"),
        (("--sensitivity", "-o", output, "--images", picture_folder), "writes no file"),
        ((), "--output"),
    ):
        assert call("quantize", tiny_onnx, *arguments) == 1
        assert words in capsys.readouterr().err
    assert not output.exists()
    assert call("quantize", tiny_plugin_onnx, "-o", output, "--images", picture_folder) == 0
    assert "int8+fp16" in capsys.readouterr().out  # for TensorRT, the fast form


def test_sensitivity_on_the_command_line(tiny_onnx, picture_folder, capsys):
    arguments = ("--sensitivity", "--images", picture_folder, "--include", "*head1*", "--target-db", "60")
    assert call("quantize", tiny_onnx, *arguments) == 0
    out = capsys.readouterr().out
    assert "layer alone in INT8" in out
    assert "--exclude '/network/heads/head1/" in out
    assert call("quantize", tiny_onnx, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["target_db"] == 60


def test_calibration_caches_on_the_command_line(tiny_onnx, picture_folder, tmp_path, capsys):
    ours, theirs, back = tmp_path / "c.json", tmp_path / "trt.cache", tmp_path / "back.json"
    assert call("quantize", tiny_onnx, "-o", tmp_path / "q.onnx", "--images", picture_folder, "--cache", ours) == 0
    assert call("calibration", "export", ours, "-o", theirs, "--tensorrt", "10.3.0") == 0
    assert theirs.read_text(encoding="utf-8").startswith("TRT-100300-EntropyCalibration2\n")
    assert call("calibration", "import", theirs, "--onnx", tiny_onnx, "-o", back) == 0
    assert call("quantize", tiny_onnx, "-o", tmp_path / "q2.onnx", "--cache", back) == 0
    capsys.readouterr()
    assert call("quantize", tiny_onnx, "-o", tmp_path / "q3.onnx", "--cache", ours, "--method", "mse") == 1
    assert "its method is 'entropy', this run's is 'mse'" in capsys.readouterr().err


def test_build_with_trtexec_words(tiny_plugin_onnx, picture_folder, tmp_path, capsys):
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx")
    engine = tmp_path / "m.engine"
    rtx = ("--tensorrt", "tensorrt_rtx", "--computeCapabilities=8.6")
    words = (
        f"--onnx={tiny_plugin_onnx}",
        f"--saveEngine={engine}",
        "--builderOptimizationLevel=2",
        "--memPoolSize=workspace:512",
    )
    assert call("build", *words, *rtx) == 0
    assert "yolo_nas_pose_n in fp32" in capsys.readouterr().out
    images = ("--precision", "int8", "--images", picture_folder, "--verify", picture_folder)
    assert call("build", tiny_plugin_onnx, "-o", engine, *images, *rtx) == 0
    assert "quantized ONNX file against the original" in capsys.readouterr().out
    assert call("inspect", engine) == 0
    assert "PoseNMS_TRT" in capsys.readouterr().out
    assert call("inspect", engine, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sidecar"]["comparison"]["total"]["found"] > 50
    assert call("build", tiny_plugin_onnx) == 1
    assert "--output: name the .engine file" in capsys.readouterr().err


def test_accuracy_on_the_command_line(tmp_path, capsys):
    from trt_pose.images.synthetic import SyntheticPeople
    from trt_pose.images.synthetic_files import write_coco
    from trt_pose.inspection import inspect

    data = write_coco(SyntheticPeople(3, seed=1), tmp_path / "data")
    path = tmp_path / "m.onnx"
    arguments = ("export", "demo", "-o", path, "--verify-data", data)
    assert call(*arguments) == 1
    assert "with --verify-images the folder" in capsys.readouterr().err
    assert not path.exists()
    assert call(*arguments, "--verify-images", data.parent, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"] == inspect(path).accuracy
    assert printed["accuracy"]["metrics"]["AP"] > 0.3
    assert call(*arguments, "--verify-images", tmp_path) == 1
    assert "annotated images are not there" in capsys.readouterr().err
