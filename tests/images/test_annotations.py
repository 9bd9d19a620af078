"""Annotations as tools write them: what is mended, what is refused, and the AP of either."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy

import numpy as np
import pytest

from trt_pose import SourceError
from trt_pose.evaluation import score
from trt_pose.images.annotations import Annotations, read_annotations
from trt_pose.skeleton import COCO
from trt_pose.spec import InputSpec, ModelSpec, OutputSpec

SPEC = ModelSpec(model="m", input=InputSpec(), output=OutputSpec("batch", ("a", "b", "c", "d")), skeleton=COCO)


def healthy():
    """Two images of two people each."""
    rng = np.random.default_rng(0)
    notes = []
    for index in range(4):
        x, y = 20.0 + 100 * (index % 2), 30.0
        places = rng.uniform(0, 80, (17, 2)).round(1) + np.array([x, y])
        points = np.concatenate([places, np.full((17, 1), 2.0)], axis=1)
        points[: index + 1] = 0
        notes.append(
            {
                "id": index + 1,
                "image_id": 1 + index // 2,
                "category_id": 1,
                "bbox": [x, y, 80.0, 80.0],
                "area": 0.53 * 6400,
                "iscrowd": 0,
                "keypoints": points.reshape(-1).tolist(),
                "num_keypoints": 16 - index,
            }
        )
    return {
        "images": [{"id": index, "file_name": f"{index}.png", "width": 320, "height": 240} for index in (1, 2)],
        "annotations": notes,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.names), "skeleton": [[1, 2]]}],
    }


def results(shift=0.0):
    """Results for the people of :func:`healthy`: the last one is ``shift`` px away."""
    rows = []
    for index, note in enumerate(healthy()["annotations"]):
        points = np.array(note["keypoints"]).reshape(17, 3)
        points[:, :2] += shift * (index == 3)
        rows.append(
            {
                "image_id": note["image_id"],
                "category_id": 1,
                "keypoints": points.reshape(-1).tolist(),
                "score": 0.9 - index / 10,
                "bbox": note["bbox"],
            }
        )
    return rows


def each(**changes):
    def change(coco):
        for note in coco["annotations"]:
            note.update({key: value(note) if callable(value) else value for key, value in changes.items()})

    return change


def drop(*names):
    def change(coco):
        for note in coco["annotations"]:
            for name in names:
                del note[name]

    return change


def image_ids(make):
    def change(coco):
        for item in coco["images"]:
            item["id"] = make(item["id"])
        for note in coco["annotations"]:
            note["image_id"] = make(note["image_id"])

    return change


def blank(note):
    """Joints that are not visible have no coordinates."""
    triples = np.array(note["keypoints"]).reshape(-1, 3).tolist()
    return [value for x, y, flag in triples for value in ((x, y, flag) if flag else (None, None, 0))]


MENDED = {
    "ids of annotations per image": (each(id=lambda note: 1 + note["id"] % 2), "numbered anew"),
    "id 0": (each(id=lambda note: note["id"] - 1), "numbered anew"),
    "ids that are text": (each(id=lambda note: f"a{note['id']}"), "numbered anew"),
    "no ids": (drop("id"), ""),
    "image ids as text": (image_ids(lambda key: f"00{key}"), "as text"),
    "image ids with a decimal point": (image_ids(float), "decimal point"),
    "image ids that are names": (image_ids(lambda key: f"img_{key}"), "numbered by their places"),
    "area 0": (each(area=0), "areas that do not fit"),
    "area 1": (each(area=1), "areas that do not fit"),
    "area as a share of the image": (each(area=0.04), "areas that do not fit"),
    "area of the image": (each(area=320 * 240), "areas that do not fit"),
    "area null": (each(area=None), ""),
    "no area": (drop("area", "iscrowd", "num_keypoints"), ""),
    "flags 0": (
        each(keypoints=lambda note: [0 if index % 3 == 2 else v for index, v in enumerate(note["keypoints"])]),
        "flags that are all 0",
    ),
    "num_keypoints 0": (each(num_keypoints=0), "counted anew"),
    "num_keypoints wrong": (each(num_keypoints=3), "counted anew"),
    "null coordinates": (each(keypoints=blank), "put at 0, 0"),
    "NaN coordinates": (
        each(keypoints=lambda note: [float("nan") if value is None else value for value in blank(note)]),
        "put at 0, 0",
    ),
    "keypoints in lists": (
        each(keypoints=lambda note: np.array(note["keypoints"]).reshape(-1, 3).tolist()),
        "lists of their own",
    ),
    "keypoints of two numbers": (
        each(keypoints=lambda note: np.array(note["keypoints"]).reshape(-1, 3)[:, :2].reshape(-1).tolist()),
        "without flags",
    ),
    "crowd as a word": (each(iscrowd=False), ""),
    "an image listed twice": (lambda coco: coco["images"].append(dict(coco["images"][0])), "listed again"),
    "an annotation of an image that is not listed": (
        lambda coco: coco["annotations"].append({**coco["annotations"][0], "image_id": 99, "id": 99}),
        "not listed",
    ),
    "no box": (drop("bbox"), "missing boxes"),
}


def read(tmp_path, coco):
    (tmp_path / "a.json").write_text(json.dumps(coco))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        truth = read_annotations(tmp_path / "a.json")
    return truth, " ".join(str(item.message) for item in caught)


def test_healthy_annotations_are_not_touched(tmp_path):
    truth, said = read(tmp_path, healthy())
    assert said == ""
    assert truth["annotations"] == healthy()["annotations"]


@pytest.mark.parametrize("case", MENDED)
def test_what_has_one_reading_is_mended_and_said(tmp_path, case):
    change, words = MENDED[case]
    coco = healthy()
    change(coco)
    truth, said = read(tmp_path, coco)
    assert (words in said) if words else not said
    for shift in (0.0, 12.0):
        found = score(truth, results(shift), SPEC, [1])[0]
        expected = score(healthy(), results(shift), SPEC, [1])[0]
        # Boxes drawn around joints, and areas of them, are close to the true ones, not equal.
        assert found["AP"] == pytest.approx(expected["AP"], abs=0.05 if case == "no box" else 1e-12)
        assert shift or found["AP"] == pytest.approx(1)


@pytest.mark.parametrize("case", MENDED)
def test_the_ap_is_that_of_pycocotools(tmp_path, case):
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluator = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is not installed")
    coco = healthy()
    MENDED[case][0](coco)
    truth, _ = read(tmp_path, coco)
    reference = coco_module.COCO()
    reference.dataset = deepcopy(truth)
    reference.createIndex()
    judge = evaluator.COCOeval(reference, reference.loadRes(deepcopy(results(12.0))), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert score(truth, results(12.0), SPEC, [1])[0]["AP"] == pytest.approx(judge.stats[0], abs=1e-12)


def note_with(**fields):
    def change(coco):
        coco["annotations"][2].update(fields)

    return change


def one_joint(x, y, flag):
    def change(coco):
        coco["annotations"][2]["keypoints"][15:18] = [x, y, flag]

    return change


REFUSED = {
    "a visible joint without coordinates": (one_joint(None, 3, 2), "annotation 3 with joint 5 visible"),
    "a joint without a flag": (one_joint(1, 3, None), "annotation 3 with joint 5"),
    "a flag below 0": (one_joint(1, 3, -1), "annotation 3 with joint 5"),
    "a joint far away": (one_joint(1e30, 3, 2), "annotation 3 with joint 5"),
    "keypoints of no length": (note_with(keypoints=[1, 2, 2, 4]), "annotation 3 with 4 numbers"),
    "keypoints of two lengths": (note_with(keypoints=[[1, 2, 2], [1, 2]]), "annotation 3 with keypoints of different"),
    "a box of three": (note_with(bbox=[1, 2, 3]), "annotation 3 without a bbox"),
    "a box with null": (note_with(bbox=[1, 2, None, 4]), "annotation 3 without a bbox"),
    "a negative box": (note_with(bbox=[10, 10, -5, 5]), "annotation 3 with the bbox"),
    "flags 0 and another count": (
        note_with(keypoints=[5.0, 5.0, 0] * 17, num_keypoints=3),
        "annotation 3 with num_keypoints 3",
    ),
    "a category that is not there": (note_with(category_id=7), "annotation 3 with category_id '7'"),
    "two images of one id": (lambda coco: coco["images"].append({"id": 2, "file_name": "b.png"}), "two images"),
    "no box and no joints": (note_with(bbox=None, keypoints=None), "annotation 3 without a bbox"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_reading_or_several_is_refused(tmp_path, case):
    change, words = REFUSED[case]
    coco = healthy()
    change(coco)
    with pytest.raises(SourceError, match=words):
        read(tmp_path, coco)


def test_names_written_on_windows(tmp_path, photograph):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    coco = healthy()
    for item in coco["images"]:
        item["file_name"] = f"pictures\\{item['id']}.png"
        Image.fromarray(photograph).save(tmp_path / "pictures" / f"{item['id']}.png")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco).encode())
    data = Annotations.read(tmp_path / "a.json", tmp_path)
    assert data.paths == [str(tmp_path / f"pictures/{index}.png") for index in (1, 2)]
