"""AP of files: cases by hand, the community's older evaluator where it is installed, and the files of the tests."""

import json

import numpy as np
import pytest

from trt_pose import PosePredictor, SourceError, UsageError
from trt_pose.choices import Precision
from trt_pose.cli import main
from trt_pose.evaluation import accuracy, evaluate, match_categories, score
from trt_pose.images.annotations import Annotations, read_annotations
from trt_pose.skeleton import COCO
from trt_pose.spec import ModelSpec

SPEC = ModelSpec("m", skeleton=COCO)


def person(number, image, x, y, size=100, off=0.0, **more):
    """All joints in the middle of a box, ``off`` px to the right."""
    middle = [x + size / 2 + off, y + size / 2, 2]
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": [x, y, size, size], "area": size * size * 0.53,
        "keypoints": middle * 17, "num_keypoints": 17, "iscrowd": 0, **more,
    }  # fmt: skip


def truth(*people, images=2):
    return {
        "images": [
            {"id": index + 1, "file_name": f"{index}.png", "width": 640, "height": 480} for index in range(images)
        ],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.names)}],
    }


def row(item, value):
    return {"image_id": item["image_id"], "category_id": 1, "score": value, "keypoints": item["keypoints"],
            "bbox": item["bbox"]}  # fmt: skip


def test_perfect_and_missed_by_hand():
    people = [person(1, 1, 10, 10), person(2, 1, 300, 200), person(3, 2, 50, 60)]
    metrics, images = score(truth(*people), [row(item, 0.9) for item in people], SPEC, [1])
    assert (metrics["AP"], metrics["AR"], metrics["AP50"]) == (1.0, 1.0, 1.0)
    assert all(item.missed == item.extra == 0 for item in images)
    metrics, images = score(truth(*people), [row(people[0], 0.9)], SPEC, [1])
    assert metrics["AR"] == pytest.approx(1 / 3)
    assert metrics["AP"] == pytest.approx(34 / 101)  # of 101 recall points, those up to a third
    assert [(item.source, item.annotated, item.missed) for item in images] == [("0.png", 2, 1), ("1.png", 1, 1)]


def test_oks_by_hand():
    """All joints 8 px off: OKS is known, and with it the thresholds that are passed."""
    first = person(1, 1, 10, 10)
    sigmas = np.asarray(COCO.sigmas)
    oks = np.exp(-64 / (2 * (2 * sigmas) ** 2 * first["area"])).mean()
    passed = sum(oks >= level - 1e-9 for level in np.arange(0.5, 1.0, 0.05))
    assert 0 < passed < 10
    metrics, _ = score(truth(first), [row(person(1, 1, 10, 10, off=8.0), 0.9)], SPEC, [1])
    assert metrics["AP"] == pytest.approx(passed / 10)
    other = ModelSpec("m", skeleton=type(COCO)(COCO.names, sigmas=(1.0,) * 17))  # joints nobody knows better
    assert score(truth(first), [row(person(1, 1, 10, 10, off=8.0), 0.9)], other, [1])[0]["AP"] == 1.0


def test_an_extra_person_costs_by_its_score():
    first, ghost = person(1, 1, 10, 10), person(9, 1, 300, 300)
    low, _ = score(truth(first), [row(first, 0.9), row(ghost, 0.1)], SPEC, [1])
    high, images = score(truth(first), [row(first, 0.1), row(ghost, 0.9)], SPEC, [1])
    assert low["AP"] == 1.0
    assert high["AP"] == pytest.approx(0.5)
    assert images[0].extra == 1


def test_nothing_found_crowds_and_empty_images():
    crowd = person(2, 1, 300, 200, iscrowd=1)
    people = [person(1, 1, 10, 10), crowd, person(3, 2, 10, 10, num_keypoints=0, keypoints=[0] * 51)]
    metrics, images = score(truth(*people, images=3), [], SPEC, [1])
    assert (metrics["AP"], metrics["AR"]) == (0.0, 0.0)
    assert sum(item.annotated for item in images) == 1  # neither the crowd nor the one without joints
    metrics, _ = score(truth(*people, images=3), [row(people[0], 0.9), row(crowd, 0.8)], SPEC, [1])
    assert metrics["AP"] == 1.0


def test_the_older_evaluator_agrees(rng):
    older, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    people = [
        person(number, 1 + number % 5, *rng.uniform(0, 400, 2), size=float(rng.uniform(40, 200)))
        for number in range(1, 40)
    ]
    found = []
    for item in people:
        if rng.uniform() < 0.8:
            moved = dict(item, keypoints=list(np.asarray(item["keypoints"]) + rng.normal(0, 3, 51)))
            found.append(row(moved, float(rng.uniform())))
    ours, _ = score(truth(*people, images=5), found, SPEC, [1])
    annotated = older.COCO()
    annotated.dataset = truth(*people, images=5)
    annotated.createIndex()
    evaluator = cocoeval.COCOeval(annotated, annotated.loadRes([dict(item) for item in found]), "keypoints")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert list(ours.values()) == pytest.approx([None if v < 0 else v for v in evaluator.stats], abs=1e-6)


@pytest.fixture(scope="module")
def data(tiny_onnx, picture_folder, tmp_path_factory):
    """What the tiny model itself finds, as the annotations: its own AP is then 1."""
    path = tmp_path_factory.mktemp("coco") / "truth.json"
    record = truth(images=0)
    with PosePredictor(tiny_onnx, confidence=0.25, providers=["cpu"]) as predictor:
        for index, file in enumerate(sorted(picture_folder.iterdir()), 1):
            result = predictor.predict(str(file))
            height, width = result.image.shape[:2]
            record["images"].append({"id": index, "file_name": file.name, "width": width, "height": height})
            for note in result.poses.to_coco(index):
                note["keypoints"][2::3] = [2] * 17
                del note["score"]
                record["annotations"].append({**note, "id": len(record["annotations"]) + 1})
    path.write_text(json.dumps(record))
    return path


def test_a_file_on_its_own_poses(tiny_onnx, tiny_plugin_onnx, data, picture_folder, tmp_path):
    found = evaluate(tiny_onnx, data, picture_folder, confidence=0.25, results=tmp_path / "r.json", providers=["cpu"])
    assert found.metrics["AP"] == pytest.approx(1.0, abs=1e-6)
    assert found.annotated == found.detections > 5
    assert len(json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))) == found.detections
    other = evaluate(tiny_plugin_onnx, data, picture_folder, confidence=0.25, providers=["cpu"])
    assert other.metrics["AP"] == pytest.approx(1.0, abs=1e-6)


def test_a_checkpoint_is_run_by_torch(tiny_onnx, data, picture_folder, tmp_path, monkeypatch):
    from dataclasses import replace

    from trt_pose import models

    from .conftest import make_tiny

    model = make_tiny()
    model.processing = replace(model.processing, input=model.processing.input.with_size(128, 160))
    monkeypatch.setattr(models, "get", lambda name, checkpoint_path: model)
    found = evaluate(tmp_path / "c.pth", data, picture_folder, model="yolo_nas_pose_n", confidence=0.25)
    # Torch has more candidates than the small file has, so that it may find people the annotations lack.
    assert found.metrics["AR"] == pytest.approx(1.0, abs=1e-3)


def test_a_keypoint_rcnn_is_evaluated_as_a_file(data, picture_folder, tmp_path):
    with pytest.raises(UsageError, match=r"as a file\. Export it with --conf 0\.01"):
        evaluate(tmp_path / "k.pth", data, picture_folder, model="keypointrcnn_resnet50_fpn")


def test_objects(tmp_path, picture_folder):
    from .export.test_detection_export import OPTIONS, tiny

    path = tmp_path / "d.onnx"
    tiny("yolo_nas").export(path, verification=False, **OPTIONS)
    record = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "class 2"}, {"id": 3, "name": "Class 4"}],
    }
    with PosePredictor(path, providers=["cpu"]) as predictor:
        for index, file in enumerate(sorted(picture_folder.iterdir()), 1):
            record["images"].append({"id": index, "file_name": file.name})
            found = predictor.predict(str(file)).detections
            for kind, category in ((2, 7), (4, 3)):
                for x1, y1, x2, y2 in found.boxes[found.classes == kind].tolist():
                    note = {"image_id": index, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                    record["annotations"].append(note)
    assert len(record["annotations"]) > 3
    (tmp_path / "t.json").write_text(json.dumps(record))
    result = evaluate(path, tmp_path / "t.json", picture_folder, confidence=0.3, providers=["cpu"])
    assert result.task == "detection"
    assert result.metrics["AP"] == pytest.approx(1.0, abs=1e-6)
    assert result.detections == len(record["annotations"])


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", *map(str, arguments)])
    return stopped.value.code


def test_on_the_command_line(tiny_onnx, tiny_plugin_onnx, data, picture_folder, tmp_path, capsys):
    common = ("--data", data, "--images", picture_folder, "--conf", 0.25)
    report = tmp_path / "r.json"
    assert (
        call(tiny_onnx, tiny_plugin_onnx, *common, "--report", report, "--save", tmp_path / "worst", "--worst", 2) == 0
    )
    out = capsys.readouterr().out
    assert "AP lost" in out
    assert len(json.loads(report.read_text(encoding="utf-8"))) == 2
    assert len(list((tmp_path / "worst").iterdir())) == 2
    assert call(tiny_onnx, "--synthetic", 3, "--conf", 0.25) == 0
    assert "3 images" in capsys.readouterr().out
    assert call(tiny_onnx, *common, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"]["AP"] == pytest.approx(1.0)
    for arguments, words in (
        ((tiny_onnx, "--data", data, "--images", picture_folder), "keeps scores above 0.2 only"),
        ((tiny_onnx, tiny_onnx, *common, "--results", tmp_path / "x.json"), "it is for one file"),
        ((tmp_path / "c.pth", *common), "Add --model"),
        ((tiny_onnx,), "give it with --images, or give --synthetic, not both"),
        ((tiny_onnx, "--data", data), "give it with --images"),
        ((tiny_onnx, "--data", tmp_path / "no.json", "--images", picture_folder), "no such file"),
        ((tiny_onnx, "--data", data, "--images", tmp_path), "annotated images are not there"),
    ):
        assert call(*arguments) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [], "annotations": [], "categories": []}'])
def test_annotations_that_are_none(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(SourceError, match="not COCO annotations"):
        read_annotations(tmp_path / "t.json")


def test_annotations_of_other_joints_or_classes():
    with pytest.raises(UsageError, match="none has the model's 17 joints"):
        match_categories(truth(person(1, 1, 0, 0, keypoints=[1, 1, 2])), SPEC)
    with pytest.raises(UsageError, match="none of its classes"):
        match_categories(truth(), ModelSpec("m", task="detection", class_names=("cat",)))


def test_accuracy_is_recorded_in_the_file(tiny_onnx, data, picture_folder, tmp_path):
    from trt_pose.graphs.file import record_accuracy
    from trt_pose.inspection import inspect
    from trt_pose.quantization import QuantizeOptions, quantize

    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    found = accuracy(path, Annotations.read(data, picture_folder))
    assert (found["confidence"], found["images"], found["data"]) == (0.2, 6, "truth.json")  # the file's own threshold
    assert found["metrics"]["AR"] == pytest.approx(1.0)
    for _ in range(2):  # twice leaves one entry
        record_accuracy(path, found)
    assert inspect(path).accuracy == found
    assert inspect(tiny_onnx).accuracy is None
    with PosePredictor(path, providers=["cpu"]) as predictor:
        assert predictor.spec.model == "yolo_nas_pose_n"
    quantize(path, tmp_path / "h.onnx", options=QuantizeOptions(precision=Precision.FP16))
    assert inspect(tmp_path / "h.onnx").accuracy is None  # it was another file's
