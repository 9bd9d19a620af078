"""Training pictures: where the people are after the letterbox and every change, and that the seed decides."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from trt_pose import SourceError, UsageError
from trt_pose.images import draw
from trt_pose.images.annotations import Annotations
from trt_pose.images.synthetic import Scene, SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.models.processing import POSE_INPUT
from trt_pose.skeleton import ANIMALPOSE, COCO, CROWDPOSE, Skeleton
from trt_pose.training.augment import Augmentation, mirror, warp
from trt_pose.training.data import Batches, CocoPictures, SyntheticPictures
from trt_pose.training.truth import People, Truth

SPEC = POSE_INPUT.with_size(128, 160)


def marked(points, size=(128, 160)):
    """A black picture with a white disc at each joint."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 3, (255, 255, 255), -1)
    return image


def one_person(points, visible=None):
    flags = np.full(len(points), 2.0) if visible is None else visible
    joints = np.concatenate([points, flags[:, None]], axis=1)[None].astype(np.float32)
    box = np.concatenate([points.min(axis=0) - 4, points.max(axis=0) + 4])[None].astype(np.float32)
    return People(box, joints, np.zeros(1, bool))


def whiteness(image, people):
    joints = people.joints[people.joints[..., 2] > 0]
    return [image[min(round(y), image.shape[0] - 1), min(round(x), image.shape[1] - 1), 0] for x, y, _ in joints]


@pytest.fixture
def points(rng):
    return rng.uniform([45, 40], [115, 88], (17, 2))


def test_mirroring_moves_joints_and_swaps_their_names(points):
    image, people = marked(points), one_person(points)
    flipped, moved = mirror(image, people, COCO)
    assert min(whiteness(flipped, moved)) == 255
    np.testing.assert_allclose(moved.joints[0, 5, 0], 159 - points[6, 0], atol=1e-4)  # left shoulder
    np.testing.assert_allclose(moved.joints[0, 0, 0], 159 - points[0, 0], atol=1e-4)  # the nose stays the nose
    x1, _, x2, _ = people.boxes[0]
    np.testing.assert_allclose(moved.boxes[0, [0, 2]], [160 - x2, 160 - x1], atol=1e-4)
    back, twice = mirror(flipped, moved, COCO)
    np.testing.assert_array_equal(back, image)
    np.testing.assert_allclose(twice.joints, people.joints, atol=1e-4)


def test_joints_nobody_annotated_stay_so(points):
    flags = np.full(17, 2.0)
    flags[5] = 0
    people = one_person(points, flags)
    people.joints[0, 5] = 0
    _, moved = mirror(marked(points), people, COCO)
    assert moved.joints[0, 6].tolist() == [0, 0, 0]
    _, moved = warp(marked(points), people, np.array([[1.0, 0, 5], [0, 1, 5]]), 0)
    assert moved.joints[0, 5].tolist() == [0, 0, 0]


def test_affine_maps_take_joints_along(points, rng):
    image, people = marked(points), one_person(points)
    strong = Augmentation(flip=0.5, affine=1.0, color=0.0, rotation_deg=40, scale=(0.7, 1.4), translation=0.2)
    seen = 0
    for _ in range(30):
        changed, moved = strong.apply(image, people, COCO, 0, rng)
        assert changed.shape == image.shape
        white = whiteness(changed, moved)
        seen += len(white)
        assert np.mean(np.array(white) > 128) > 0.95 if white else True  # discs at the very edge may be cut
        inside = moved.joints[moved.joints[..., 2] > 0]
        assert (inside[:, :2] >= 0).all()
        assert (inside[:, :2] < [160, 128]).all()
        assert (moved.boxes >= 0).all()
        assert (moved.boxes <= [160, 128, 160, 128]).all()
    assert seen > 300


def test_boxes_and_pictures_are_scaled_alike():
    """A box around 40 whole pixels is around 60 when they are half as large again."""
    image = np.zeros((128, 160, 3), np.uint8)
    image[44:84, 60:100] = 255
    people = People(np.array([[60.0, 44, 100, 84]], np.float32), np.zeros((1, 17, 3), np.float32), np.zeros(1, bool))
    matrix = np.asarray(cv2.getRotationMatrix2D((79.5, 63.5), 0, 1.5))
    larger, moved = warp(image, people, matrix, 0)
    np.testing.assert_allclose(moved.boxes[0], [50, 34, 110, 94], atol=1e-4)
    rows, columns = np.nonzero(larger[..., 0] > 127)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (50, 34, 110, 94)


def test_who_leaves_the_picture_is_dropped(points):
    people = one_person(points)
    _, gone = warp(marked(points), people, np.array([[1.0, 0, 150], [0, 1, 0]]), 127)
    assert len(gone.boxes) == len(gone.joints) == len(gone.crowd) == 0
    shifted, half = warp(marked(points), people, np.array([[1.0, 0, 80], [0, 1, 0]]), 127)
    assert len(half.boxes) == 1
    assert 0 < (half.joints[..., 2] > 0).sum() < 17
    assert (shifted[:, :80] == 127).all()


def test_colours_change_and_geometry_does_not(points, photograph, rng):
    people = one_person(points)
    image = cv2.resize(photograph, (160, 128))
    changed, same = Augmentation(flip=0, affine=0, color=1).apply(image, people, COCO, 0, rng)
    assert same is people
    assert 2 < np.abs(changed.astype(int) - image).mean() < 60
    untouched, _ = Augmentation(flip=0, affine=0, color=0).apply(image, people, COCO, 0, rng)
    assert untouched is image


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    return write_coco(SyntheticPeople(6, (100, 140), seed=3, scene=Scene((2, 3), (60, 90))), folder)


def test_people_of_coco_annotations_in_the_letterbox(coco):
    pictures = CocoPictures(Annotations.read(coco, coco.parent), SPEC, COCO)
    assert len(pictures) == 6
    record = json.loads(coco.read_text(encoding="utf-8"))
    pixels, people = pictures[0]
    assert pixels.shape == (3, 128, 160)
    assert pixels.dtype == torch.uint8
    notes = [note for note in record["annotations"] if note["image_id"] == 1]
    scale = 160 / 140
    for note, box, joints in zip(notes, people.boxes, people.joints, strict=True):
        x, y, width, height = note["bbox"]
        np.testing.assert_allclose(box, np.array([x, y, x + width, y + height]) * scale, rtol=1e-5)
        expected = np.array(note["keypoints"]).reshape(17, 3)
        seen = expected[:, 2] > 0
        np.testing.assert_allclose(joints[seen, :2], expected[seen, :2] * scale, rtol=1e-5)
        assert (joints[~seen] == 0).all()
    assert (pixels[:, 115:] == SPEC.pad_value).all()
    centered = CocoPictures(Annotations.read(coco, coco.parent), replace(SPEC, padding="center"), COCO)
    np.testing.assert_allclose(centered[0][1].boxes[:, 1] - people.boxes[:, 1], 7, atol=1e-4)  # of 14 px


def test_the_number_decides_the_picture(coco):
    """The same number is the same picture, the next epoch's is another; so a resumed training sees what it would."""
    make = lambda seed: CocoPictures(Annotations.read(coco, coco.parent), SPEC, COCO, Augmentation(), seed)  # noqa: E731
    first, again, other = make(0), make(0), make(1)
    assert torch.equal(first[2][0], again[2][0])
    np.testing.assert_array_equal(first[2][1].joints, again[2][1].joints)
    assert not torch.equal(first[2][0], first[8][0])
    assert not torch.equal(first[2][0], other[2][0])
    synthetic = SyntheticPictures(4, SPEC, 0)
    assert torch.equal(synthetic[5][0], SyntheticPictures(4, SPEC, 0)[5][0])
    assert not torch.equal(synthetic[5][0], synthetic[1][0])


def test_no_seed_trains_on_what_is_evaluated():
    """Numbers of the generator: seed and picture are mixed, so that both have to be looked at."""
    size = POSE_INPUT.with_size(320, 320)
    evaluated = [sample.image for seed in range(3) for sample in SyntheticPeople(3, seed=seed)]
    for seed in range(3):
        learnt = SyntheticPictures(4, size, seed)
        for number in range(3):
            picture = learnt[number][0].permute(1, 2, 0).numpy()
            assert not any(np.array_equal(picture, other) for other in evaluated)
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match="expected 0 to 4294967295"):
            SyntheticPeople(1, seed=seed)


def test_a_broken_picture_is_one_sentence_from_another_process_too(coco, tmp_path):
    for file in coco.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "000003.png").write_bytes((coco.parent / "000003.png").read_bytes()[:200])
    pictures = CocoPictures(Annotations.read(tmp_path / coco.name, tmp_path), SPEC, COCO)
    for workers in (0, 1):
        with pytest.raises(SourceError, match=r"000003\.png: the file is truncated\. Fetch it again\.$"):
            list(Batches(pictures, 2, workers=workers).epoch(0))


def test_every_kind_with_the_joints_is_learnt_and_no_other(tmp_path):
    box, person = [5, 5, 40, 40], [10, 10, 2] * 17
    notes = [{"bbox": box, "keypoints": person, "category_id": kind} for kind in (1, 2)] + [
        {"bbox": box, "category_id": 3}
    ]
    path = write(tmp_path / "a.json", notes)
    record = json.loads(path.read_text(encoding="utf-8"))
    record["categories"] = [{"id": kind, "name": str(kind)} for kind in (1, 2, 3)]
    path.write_text(json.dumps(record))
    _, people = CocoPictures(Annotations.read(path, tmp_path), SPEC, COCO)[0]
    assert len(people.boxes) == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # with one processor
@pytest.mark.parametrize("workers", [0, 2])
def test_batches(workers):
    pictures = SyntheticPictures(7, SPEC, 0)
    batches = Batches(pictures, 3, seed=0, workers=workers)
    assert len(batches) == 2  # the seventh waits for the next epoch
    first, second = (list(batches.epoch(number)) for number in (0, 1))
    images, truth = first[0]
    assert images.shape == (3, 3, 128, 160)
    assert truth.joints.shape == (3, truth.boxes.shape[1], 17, 3)
    assert truth.present.sum(dim=1).max() == truth.boxes.shape[1]
    assert not torch.equal(images, second[0][0])
    again = list(Batches(pictures, 3, seed=0).epoch(1))
    assert all(torch.equal(one[0], two[0]) for one, two in zip(second, again, strict=True))


def test_truth_is_padded():
    people = one_person(np.full((17, 2), 9.0))
    nobody = People(np.zeros((0, 4), np.float32), np.zeros((0, 17, 3), np.float32), np.zeros(0, bool))
    truth = Truth.of([nobody, people])
    assert truth.present.tolist() == [[False], [True]]
    assert truth.joints[0].abs().sum() == 0
    assert Truth.of([nobody]).boxes.shape == (1, 0, 4)


def write(path, annotations, images=("0.png",), keypoints=COCO.names):
    for name in images:
        draw.save(np.zeros((64, 64, 3), np.uint8), path.parent / name)
    record = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(images, 1)],
        "annotations": [{"image_id": 1, "category_id": 1, **note} for note in annotations],
        "categories": [{"id": 1, "name": "person", "keypoints": list(keypoints)}],
    }
    path.write_text(json.dumps(record))
    return path


def test_bad_annotations_are_one_sentence(tmp_path):
    box, person = [5, 5, 40, 40], [10, 10, 2] * 17
    path = write(tmp_path / "a.json", [{"bbox": box, "keypoints": [1, 2, 2] * 20}])
    with pytest.raises(UsageError, match=r"none has the model's 17 joints \(they have 20 joints\)"):
        CocoPictures(Annotations.read(path, tmp_path), SPEC, COCO)
    path = write(tmp_path / "a.json", [{"bbox": [5, 5, 0, 40], "keypoints": person}])
    with pytest.raises(SourceError, match="nobody is annotated"):
        CocoPictures(Annotations.read(path, tmp_path), SPEC, COCO)
    for note, words in (
        ({"bbox": box, "keypoints": person[:-1]}, "annotation 1 with 50 numbers as keypoints"),
        ({"bbox": box, "keypoints": person, "category_id": 9}, "annotation 1 with category_id '9'"),
        ({"bbox": box[:3]}, "not COCO annotations"),
    ):
        with pytest.raises(SourceError, match=words):
            Annotations.read(write(tmp_path / "a.json", [note]), tmp_path)
    path = write(tmp_path / "a.json", [{"bbox": box, "keypoints": person}])
    twice = json.loads(path.read_text(encoding="utf-8"))
    twice["images"].append({"id": 1, "file_name": "other.png"})
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    with pytest.raises(SourceError, match="two images with the id 1"):
        Annotations.read(tmp_path / "twice.json", tmp_path)
    # People without joints, and crowds, are kept: boxes to learn, and cells to leave alone.
    notes = [{"bbox": box, "keypoints": []}, {"bbox": box, "keypoints": person, "iscrowd": 1}]
    path = write(tmp_path / "a.json", notes)
    _, people = CocoPictures(Annotations.read(path, tmp_path), SPEC, COCO)[0]
    assert people.crowd.tolist() == [False, True]
    assert people.joints[0].sum() == 0


def test_joint_sets_of_annotations():
    assert Skeleton.from_category({"keypoints": list(COCO.names)}, 17) is COCO
    assert Skeleton.from_category({}, 14) is CROWDPOSE
    assert Skeleton.from_category({"keypoints": list(ANIMALPOSE.names)}, 20) is ANIMALPOSE
    own = Skeleton.from_category(
        {"keypoints": ["hub", "left_tip", "right_tip"], "skeleton": [[1, 2], [1, 3]], "sigmas": [0.1, 0.2, 0.2]}, 3
    )
    assert own.names == ("hub", "left_tip", "right_tip")
    assert own.edges == ((0, 1), (0, 2))
    assert own.flip_pairs == ((1, 2),)
    assert own.sigmas == (0.1, 0.2, 0.2)
    animal = Skeleton.from_category({"keypoints": ["L_Eye", "R_Eye", "Nose", "L_F_Paw", "R_F_Paw", "Tail"]}, 6)
    assert animal.flip_pairs == ((0, 1), (3, 4))
    other = Skeleton.from_category({"keypoints": [f"p{i}" for i in range(17)]}, 17)  # seventeen, but not COCO's
    assert other.names[0] == "p0"
    assert other.flip_pairs == ()
    assert Skeleton.from_category({}, 5).names == ("joint_0", "joint_1", "joint_2", "joint_3", "joint_4")
