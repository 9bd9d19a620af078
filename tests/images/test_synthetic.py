"""Synthetic people: the same from a seed, where their annotations say, hidden where somebody stands in front."""

import json

import cv2
import numpy as np
import pytest

from trt_pose import SourceError, UsageError
from trt_pose.cli import main
from trt_pose.evaluation import score
from trt_pose.images.annotations import read_annotations
from trt_pose.images.sources import open_source
from trt_pose.images.synthetic import SCENES, Figure, Scene, SyntheticPeople, find_scene
from trt_pose.images.synthetic_clip import SyntheticClip
from trt_pose.images.synthetic_files import write_coco
from trt_pose.skeleton import COCO
from trt_pose.spec import ModelSpec


def test_the_same_in_every_run():
    first, again, other = (SyntheticPeople(5, seed=seed) for seed in (3, 3, 4))
    for index in (4, 0, -1):
        a, b = first[index], again[index]
        for name in ("image", "joints", "boxes", "areas"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (first[0].image != other[0].image).any()
    assert (first[0].image != first[1].image).any()
    assert (len(first), len(first[1:3]), len(list(first))) == (5, 2, 5)


def test_what_the_annotations_say():
    people, hidden, outside, behind = 0, 0, 0, 0
    for sample in SyntheticPeople(60, (240, 320), seed=1, scene=SCENES["crowded"]):
        assert sample.image.shape == (240, 320, 3)
        assert sample.image.dtype == np.uint8
        assert len(sample.joints) == len(sample.boxes) == len(sample.areas)
        x, y, seen = np.moveaxis(sample.joints, 2, 0)
        assert set(np.unique(seen)) <= {0, 1, 2}
        assert ((seen > 0) <= ((x >= 0) & (x < 320) & (y >= 0) & (y < 240))).all()
        assert (sample.joints[seen == 0] == 0).all()
        assert ((seen == 2).sum(axis=1) >= 4).all()
        assert (sample.boxes[:, :2] >= 0).all()
        assert (sample.boxes[:, 2:] <= (320, 240)).all()
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        assert (sample.areas <= sides.prod(axis=1)).all()
        # What is seen lies in the box of what is seen; limbs are wider than their joints.
        for joints, box in zip(sample.joints, sample.boxes, strict=True):
            own = joints[joints[:, 2] == 2, :2]
            assert (own >= box[:2] - 3).all()
            assert (own <= box[2:] + 3).all()
        people += len(sample.joints)
        hidden, outside = hidden + (seen == 1).sum(), outside + (seen == 0).sum()
        behind += (seen[:, 0] == 1).sum()
    assert people > 120
    assert min(hidden, outside, behind) > 30


def test_left_and_right_change_sides_when_a_body_turns():
    facing, away = 0, 0
    for seed in range(200):
        figure = Figure(np.random.default_rng(seed), 100.0, (0.0, 0.0))
        if abs(figure.turn) > 0.5:
            left_is_right_in_the_picture = figure.points[5, 0] > figure.points[6, 0]
            assert left_is_right_in_the_picture == (figure.turn > 0)
            assert figure.faces[0] == (figure.turn > 0)
            facing, away = facing + (figure.turn > 0), away + (figure.turn < 0)
    assert facing > 4 * away > 40  # most people in photographs face the camera


def test_a_painted_body_covers_its_joints():
    covered = []
    for seed in range(50):
        figure = Figure(np.random.default_rng(seed), 150.0, (160.0, 160.0))
        mask = np.zeros((320, 320), np.uint8)
        figure.paint(np.zeros((320, 320, 3), np.uint8), mask)
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        x, y = np.clip(figure.points, 0, 319).astype(int).T
        covered.append((mask[y, x] > 0).mean())
    assert np.mean(covered) > 0.97


def test_coco_of_them(tmp_path):
    path = write_coco(SyntheticPeople(6, (96, 128), seed=2), tmp_path / "set")
    truth = read_annotations(path)
    assert len(truth["images"]) == 6
    assert cv2.imread(str(tmp_path / "set" / truth["images"][0]["file_name"])).shape == (96, 128, 3)
    rows = [
        {**{name: note[name] for name in ("image_id", "category_id", "keypoints", "bbox")}, "score": 0.9}
        for note in truth["annotations"]
    ]
    metrics, _ = score(truth, rows, ModelSpec("m", skeleton=COCO), [1])
    assert metrics["AP"] == pytest.approx(1.0)
    assert json.loads(path.read_text(encoding="utf-8"))["categories"][0]["keypoints"][0] == "nose"


def test_a_data_loader_takes_them():
    from torch.utils.data import DataLoader

    data = SyntheticPeople(5, (64, 64))
    loader = DataLoader(data, batch_size=2, collate_fn=lambda items: np.stack([item.image for item in items]))
    assert [len(batch) for batch in loader] == [2, 2, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"size": (8, 8)},
        {"scene": Scene((3, 1), (40, 50))},
        {"scene": Scene((-1, 1), (40, 50))},
        {"scene": Scene((1, 1), (50, 40))},
    ],
    ids=str,
)
def test_what_makes_no_picture(options):
    with pytest.raises(UsageError, match="synthetic people"):
        SyntheticPeople(**{"count": 1, **options})


def test_scenes():
    few, many = (SyntheticPeople(30, seed=1, scene=find_scene(name)) for name in ("sparse", "crowded"))
    assert max(len(sample.boxes) for sample in few) <= 3 < max(len(sample.boxes) for sample in many)
    assert SCENES["sparse"].scaled(0.5).heights == (40, 160)
    with pytest.raises(UsageError, match="expected one of sparse, crowded"):
        find_scene("empty")


def test_places_that_are_none(tmp_path):
    with pytest.raises(IndexError):
        SyntheticPeople(2)[2]
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="Choose a writable place"):
        write_coco(SyntheticPeople(1), tmp_path / "file")


def test_a_clip_is_the_same_in_every_run_and_its_people_walk():
    clip = SyntheticClip(50, (120, 160), seed=4)
    again = SyntheticClip(50, (120, 160), seed=4)
    first, later, last = clip[0], clip[10], again[-1]
    np.testing.assert_array_equal(later.image, again[10].image)
    assert (first.image.shape, len(clip), len(clip[5:9])) == ((120, 160, 3), 50, 4)
    assert set(first.ids) & set(last.ids)
    moved = [
        np.abs(later.joints[list(later.ids).index(who), 11, 0] - first.joints[row, 11, 0])
        for row, who in enumerate(first.ids)
        if who in later.ids and first.joints[row, 11, 2] and later.joints[list(later.ids).index(who), 11, 2]
    ]
    assert moved
    assert all(0 < distance < 80 for distance in moved)
    background = (first.image.astype(int) == later.image).all(axis=2).mean()
    assert 0.2 < background < 1.0
    with pytest.raises(IndexError):
        clip[50]
    for wrong in ({"count": 0}, {"size": (8, 8)}, {"seed": -1}, {"rate": 0.0}):
        with pytest.raises(UsageError, match="making a clip"):
            SyntheticClip(**{"count": 2, **wrong})


def test_a_clip_as_files(tmp_path, capsys):
    command = ["synthesize", str(tmp_path / "walk.mp4"), "--count", "5", "--seed", "2"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    record = json.loads((tmp_path / "walk.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in record["images"]] == [f"walk.mp4#{number}" for number in range(5)]
    assert {note["track_id"] for note in record["annotations"]} <= {0, 1, 2}
    assert [note["id"] for note in record["annotations"]] == list(range(1, len(record["annotations"]) + 1))
    assert len(list(open_source(tmp_path / "walk.mp4"))) == 5
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert "walk.mp4: it is there already" in capsys.readouterr().err
