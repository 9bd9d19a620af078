"""Keypoint R-CNN: torchvision's own model is the rcnn_truth, its ONNX file must find the same."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch

from trt_pose import (
    CheckpointError,
    ExportError,
    MissingDependencyError,
    PosePredictor,
    RunnerError,
    UsageError,
    models,
    open_runner,
)
from trt_pose.cli import main
from trt_pose.formats import RCNN_OUTPUTS
from trt_pose.images.pixels import letterbox
from trt_pose.models.keypoint_rcnn.network import NAME
from trt_pose.results.pairing import pair_boxes
from trt_pose.spec import InputSpec

from ..rcnn_fixtures import CLASSES, JOINTS


def assert_same(found, want, loosely=False):
    """Row by row after pairing: boxes to 0.02 px, keypoints to 0.1 px but for ties of the heatmap."""
    pairs = pair_boxes(found["boxes"], want["boxes"])
    assert len(pairs) >= len(want["boxes"]) - 1
    assert abs(len(found["boxes"]) - len(want["boxes"])) <= 1
    first, second = pairs.T
    np.testing.assert_allclose(found["boxes"][first], want["boxes"][second], atol=0.02)
    np.testing.assert_array_equal(found["labels"][first], want["labels"][second])
    np.testing.assert_allclose(found["scores"][first], want["scores"][second], atol=1e-4)
    apart = np.abs(found["keypoints"][first] - want["keypoints"][second]).max(axis=2)
    assert (apart < 0.1).mean() > 0.97
    np.testing.assert_allclose(found["keypoints_scores"][first], want["keypoints_scores"][second], rtol=5e-4, atol=5e-3)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (200, 340), (413, 118)])
def test_the_file_gives_what_torchvision_gives(rcnn_truth, rcnn_onnx, photograph, height, width):
    path, _ = rcnn_onnx
    pixels = np.ascontiguousarray(photograph[:height, :width].transpose(2, 0, 1))[None]
    with torch.inference_mode():
        (want,) = rcnn_truth([torch.from_numpy(pixels[0]).float() / 255])
    with open_runner(path, providers=["cpu"]) as runner:
        found = runner.run({"input": pixels})
    assert tuple(found) == RCNN_OUTPUTS
    assert len(want["boxes"]) > 5
    assert set(want["labels"].tolist()) <= {1, 2}
    assert_same(found, {name: value.numpy() for name, value in want.items()})


def test_what_the_file_says_of_itself(rcnn_onnx):
    path, result = rcnn_onnx
    spec = result.spec
    assert (spec.task, spec.output.format, spec.input.batch) == ("pose", "rcnn", 1)
    assert spec.skeleton.names == tuple(f"point {index}" for index in range(JOINTS))
    assert spec.skeleton.joint_colors == ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7), (255, 255, 255))
    with open_runner(path, providers=["cpu"]) as runner:
        assert runner.inputs["input"].shape == (1, 3, None, None)
        assert runner.spec == spec
    assert path.stat().st_size < 250_000_000


def test_predict_draws_without_torch(rcnn_onnx, photo_path, tmp_path):
    """In a process of its own: the file finds bodies and draws them, and torch is never imported."""
    path, _ = rcnn_onnx
    code = (
        "import sys; from trt_pose import PosePredictor\n"
        f"with PosePredictor({str(path)!r}, providers=['cpu']) as predictor:\n"
        f"    result = predictor.predict({str(photo_path)!r})\n"
        f"result.save({str(tmp_path / 'out.jpg')!r})\n"
        "assert 'torch' not in sys.modules\n"
        "print(len(result.poses), result.poses.classes.tolist(), result.to_dict()['poses'][0]['class'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 5
    assert cv2.imread(str(tmp_path / "out.jpg")).shape == (512, 512, 3)


def test_torch_predicts_the_same(rcnn, rcnn_onnx, photograph):
    with PosePredictor(rcnn_onnx[0], providers=["cpu"]) as predictor:
        found = predictor.predict(photograph[:250]).poses
    want = rcnn.predict(photograph[:250]).poses
    pairs = pair_boxes(found.boxes, want.boxes)
    assert len(pairs) == len(found) > 5
    np.testing.assert_allclose(found.boxes[pairs[:, 0]], want.boxes[pairs[:, 1]], atol=0.02)
    assert len(rcnn.predict(photograph[:250], conf=1.0).poses) == 0
    np.testing.assert_array_equal(found[:2].classes, found.classes[:2])


def test_floats_no_detection_and_the_resize_rule(rcnn, tmp_path, photograph):
    """A file for floats in 0..1 whose threshold nobody passes; the shorter side to 96, both multiples of 32."""
    path = tmp_path / "m.onnx"
    result = rcnn.export(
        path, confidence_threshold=1.0, input_image_dtype="float32", shortest_side=96, divisor=32, verification=False,
        onnx_simplify=False,
    )  # fmt: skip
    assert result.input_image_dtype == "float32"
    pixels, placed = letterbox(photograph[:300, :420], result.spec.input)
    assert pixels.shape == (3, 96, 128)  # 134.4 is nearest to 128
    assert (placed.scale_x, placed.scale_y) == (128 / 420, 96 / 300)
    with PosePredictor(path, providers=["cpu"]) as predictor:
        found = predictor.predict(photograph[:300, :420]).poses
        assert len(found) == 0
        assert found.joints.shape == (0, JOINTS, 3)
    with open_runner(path, providers=["cpu"]) as runner:
        outputs = runner.run({"input": np.zeros((1, 3, 96, 128), np.float32)})
    assert {name: value.shape for name, value in outputs.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "keypoints": (0, JOINTS, 3), "keypoints_scores": (0, JOINTS),
    }  # fmt: skip
    names = {item.name for item in onnx.load(path).graph.initializer}
    assert not any("running_mean" in name for name in names)  # the batch norms are folded


def test_the_floats_a_predictor_feeds(rcnn):
    """Grey levels become 0..1 where the file says so."""
    fed = {}

    class Runner:
        spec = replace(model_spec(rcnn), input=InputSpec(resize="none", dtype="float32", white=1, batch=1))
        inputs = {}  # noqa: RUF012
        runtime = "none"

        def run(self, feeds):
            fed.update(feeds)
            empty = np.zeros((0, 4), np.float32)
            return {
                "boxes": empty, "scores": empty[:, 0], "labels": empty[:, 0], "keypoints": np.zeros((0, JOINTS, 3)),
                "keypoints_scores": np.zeros((0, JOINTS)),
            }  # fmt: skip

        def close(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    PosePredictor(Runner()).predict(np.full((20, 30, 3), 51, np.uint8))
    assert fed["input"].shape == (1, 3, 20, 30)
    np.testing.assert_allclose(fed["input"], 0.2, rtol=1e-6)


def model_spec(rcnn):
    from trt_pose.export.keypoint_rcnn import make_runner

    return make_runner(rcnn, None, None, None).spec


def test_the_printed_snippets_run(rcnn_onnx, photo_path, tmp_path, monkeypatch, capsys):
    (tmp_path / "image.jpg").write_bytes(photo_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    text = str(rcnn_onnx[1])
    assert "of any size" in text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})  # noqa: S102 - our own printed code
    assert capsys.readouterr().out.count("\n") > 20


def test_fusing_twice_and_predict_options(rcnn, photograph):
    import copy

    fused = copy.deepcopy(rcnn).fuse().fuse()
    want, got = rcnn.predict(photograph[:200]).poses, fused.predict(photograph[:200]).poses
    assert len(pair_boxes(want.boxes, got.boxes)) == len(want) > 3
    with pytest.raises(UsageError, match="expected 1"):
        rcnn.predict(photograph, batch_size=2)
    with pytest.raises(TypeError):
        rcnn.predict(photograph, confidence=0.9)


def test_the_check_says_when_it_compared_nothing(rcnn, tmp_path):
    with pytest.raises(ExportError, match="nothing is found in the photograph of the check"):
        rcnn.export(tmp_path / "m.onnx", confidence_threshold=1.0, onnx_simplify=False)
    assert not list(tmp_path.iterdir())


def test_it_is_not_for_engines_and_says_so(rcnn_onnx):
    from trt_pose import EngineError
    from trt_pose.trt.compatibility import check_buildable
    from trt_pose.trt.flavor import Flavor

    for name in ("tensorrt", "tensorrt_rtx"):
        with pytest.raises(EngineError, match="images of any size"):
            check_buildable(rcnn_onnx[1].spec, Flavor(name, "11.4", None))


def test_a_wrong_checkpoint_without_torchvision(tmp_path, monkeypatch):
    """torchvision is not among what exports need: looking for the likely model must not ask for it."""
    from ..conftest import make_model

    torch.save(make_model("yolo_nas_pose_n").state_dict(), tmp_path / "n.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    with pytest.raises(CheckpointError, match="It looks like yolo_nas_pose_n"):
        models.get("yolo_nas_pose_s", checkpoint_path=tmp_path / "n.pth")
    with pytest.raises(MissingDependencyError, match="pip install torchvision"):
        models.get(NAME, checkpoint_path=tmp_path / "n.pth")


def test_weights(rcnn_truth, rcnn_checkpoint, tmp_path):
    loaded = models.get(NAME, checkpoint_path=rcnn_checkpoint, num_keypoints=JOINTS, num_classes=CLASSES)
    assert list(loaded.state_dict()) == list(rcnn_truth.state_dict())
    assert (loaded.num_joints, loaded.num_classes) == (JOINTS, CLASSES)
    norms = sum(p.numel() for m in loaded.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters())
    seventeen = (17 - JOINTS) * (512 * 16 + 1) + 5 * (2 - CLASSES) * 1025  # what keypoints and classes add
    total = sum(p.numel() for p in loaded.parameters()) - norms + seventeen
    assert total == models.MODELS[NAME].parameters
    with pytest.raises(CheckpointError, match="5 joints, 17 were asked for"):
        models.get(NAME, checkpoint_path=rcnn_checkpoint, num_keypoints=17)
    with pytest.raises(CheckpointError, match="3 classes, 2 were asked for"):
        models.get(NAME, checkpoint_path=rcnn_checkpoint, num_classes=2)
    with pytest.raises(CheckpointError, match=f"It looks like {NAME}"):
        models.get("yolo_nas_pose_n", checkpoint_path=rcnn_checkpoint)
    old = {
        re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key).replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in rcnn_truth.state_dict().items()
    }
    assert set(old) != set(rcnn_truth.state_dict())
    torch.save(old, tmp_path / "old.pth")
    again = models.get(NAME, checkpoint_path=tmp_path / "old.pth")
    assert again.weights_sha256() == loaded.weights_sha256()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt"}, "Give input_image_shape"),
        ({"batch_size": 2}, "it has no batch_size"),
        ({"quantization_mode": "int8"}, "it has no quantization_mode"),
        ({"input_image_shape": (640, 640)}, "it has no input_image_shape"),
        ({"output_predictions_format": "flat"}, "it has no output_predictions_format"),
        ({"divisor": 32}, "divisor belongs to shortest_side"),
        ({"shortest_side": 0}, "shortest_side: got 0"),
        ({"confidence_threshold": 2}, "confidence_threshold"),
        ({"input_image_dtype": "int8"}, "expected uint8 or float32"),
    ],
    ids=str,
)
def test_options_it_does_not_have(rcnn, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        rcnn.export(tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "KeyError"), ("[1]", "TypeError"), ("x", "malformed"),
        ('{"items": [{"label": "a", "color": "red"}]}', "the color 'red'"),
        ('{"items": [{"label": "a", "color": [0, 0, 256]}]}', "the color"),
        ('{"items": [{"label": "a", "color": "#00ff00"}]}', "names 1 keypoints, the model has 17"),
    ],
)  # fmt: skip
def test_colormaps_that_are_none(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UsageError, match=words):
            models.get("yolo_nas_pose_n", colormap=tmp_path / "c.json")
    with pytest.raises(UsageError, match="No such file"):
        models.get("yolo_nas_pose_n", colormap=tmp_path / "missing.json")


def test_numbers_of_another_model():
    with pytest.raises(UsageError, match="without keypoints"):
        models.get("yolo_nas_s", num_keypoints=3)
    with pytest.raises(UsageError, match="both its number of joints"):
        models.get("yolo_nas_pose_n", num_keypoints=3, num_classes=4)


def test_on_the_command_line(rcnn_onnx, photo_path, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(rcnn_onnx[0]), str(photo_path), "--json", str(tmp_path / "p.json"), "--provider", "cpu"])
    assert stopped.value.code == 0
    (record,) = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert set(record["poses"][0]["joints"]) == {f"point {index}" for index in range(JOINTS)}
    warnings.simplefilter("ignore")  # no weights; pytest restores the filters
    for option, words in (("--imgsz=640", "it has no --imgsz"), ("--backend=tensorrt", "Give --imgsz")):
        with pytest.raises(SystemExit) as stopped:
            main(["export", NAME, "-o", str(tmp_path / "m.onnx"), "--weights", "none", option])
        assert stopped.value.code == 1
        assert words in capsys.readouterr().err
    with pytest.raises(RunnerError, match="expected 1 x 3 x any x any"), open_runner(rcnn_onnx[0]) as runner:
        runner.run({"input": np.zeros((2, 3, 8, 8), np.uint8)})
