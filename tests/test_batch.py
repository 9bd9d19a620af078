"""Columns in, columns out: the same poses as by a predictor, every row once, errors as rows."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from trt_pose import PosePredictor, RunnerError, UsageError
from trt_pose.batch import FindPoses, find_poses


@pytest.fixture
def batch(photograph, tmp_path):
    paths = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        PIL.Image.fromarray(photograph[index * 20 : index * 20 + 300, : 250 + index]).save(path)
        paths.append(str(path))
    data = [Path(path).read_bytes() for path in paths]
    data[2] = data[2][:3000]
    return {"path": paths, "bytes": data, "number": np.arange(5)}


def check(found, model, batch, skip=(2,)):
    with PosePredictor(model) as predictor:
        for row, path in enumerate(batch["path"]):
            if row in skip:
                assert (found["count"][row], found["boxes"][row], found["joints"][row]) == (0, [], [])
                assert "truncated" in found["error"][row] or "damaged" in found["error"][row]
                continue
            poses = predictor.predict(path).poses
            assert found["error"][row] is None
            assert found["count"][row] == len(poses) > 0
            np.testing.assert_allclose(np.array(found["boxes"][row]), poses.boxes, atol=0.01)
            np.testing.assert_allclose(np.array(found["scores"][row]), poses.scores, atol=1e-4)
            assert np.array(found["joints"][row]).shape == poses.joints.shape


@pytest.mark.parametrize("size", [None, 2, 8])
def test_the_poses_are_those_of_a_predictor(tiny_dynamic_onnx, batch, size):
    found = FindPoses(str(tiny_dynamic_onnx), batch_size=size)(batch)
    assert list(found) == ["path", "number", "count", "boxes", "scores", "joints", "error"]
    assert found["path"] == batch["path"]
    check(found, tiny_dynamic_onnx, batch)


def test_paths_and_arrays_are_images_too(tiny_onnx, batch):
    by_path = FindPoses(str(tiny_onnx), "path", keep=["path"])(batch)
    check(by_path, tiny_onnx, batch, skip=())
    arrays = [np.asarray(PIL.Image.open(path)) for path in batch["path"]]
    by_array = FindPoses(str(tiny_onnx), "image")({"path": batch["path"], "image": arrays})
    check(by_array, tiny_onnx, batch, skip=())
    wrong = FindPoses(str(tiny_onnx), "image")({"image": [np.zeros((3, 4), np.float32), b"", "none.png"]})
    assert list(wrong["count"]) == [0, 0, 0]
    assert [word in said for word, said in zip(("float32", "empty", "none.png"), wrong["error"], strict=True)] == [
        True
    ] * 3


def test_an_empty_batch(tiny_onnx):
    found = FindPoses(str(tiny_onnx))({"bytes": []})
    assert {name: len(column) for name, column in found.items()} == dict.fromkeys(found, 0)


def test_a_data_frame(tiny_onnx, batch):
    pandas = pytest.importorskip("pandas")
    found = pandas.DataFrame(FindPoses(str(tiny_onnx))(pandas.DataFrame(batch)))
    assert list(found["path"]) == batch["path"]
    check({name: list(found[name]) for name in found}, tiny_onnx, batch)


def test_it_travels_and_opens_the_model_once_in_a_process(tiny_onnx, batch, monkeypatch):
    monkeypatch.setattr(find_poses, "_opened", {})
    first = FindPoses(str(tiny_onnx), conf=0.3)
    second = pickle.loads(pickle.dumps(first))
    assert not find_poses._opened
    one, other = first(batch), second(batch)
    assert one["boxes"] == other["boxes"]
    assert len(find_poses._opened) == 1
    FindPoses(str(tiny_onnx), conf=0.4, providers=["cpu"])(batch)
    assert len(find_poses._opened) == 2


def test_what_is_wrong_with_all_rows_is_raised(tiny_onnx, tmp_path, batch):
    with pytest.raises(UsageError, match="no column 'image', only path, bytes, number"):
        FindPoses(str(tiny_onnx), "image")(batch)
    with pytest.raises(UsageError, match="no column 'title'"):
        FindPoses(str(tiny_onnx), keep=["title"])(batch)
    with pytest.raises(RunnerError, match=r"none\.onnx"):
        FindPoses(str(tmp_path / "none.onnx"))(batch)


def test_torch_is_not_imported():
    code = "import sys, trt_pose.batch; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
