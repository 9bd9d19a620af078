import json

import numpy as np
import pytest

from trt_pose import Letterbox, ModelSpec, Poses, RunnerError, SourceError
from trt_pose.results.poses import PoseResult
from trt_pose.skeleton import ANIMALPOSE, COCO, CROWDPOSE, Skeleton
from trt_pose.spec import OutputSpec

TWO = Skeleton(("head", "tail"), edges=((0, 1),))


def poses():
    return Poses(
        np.array([[0, 0, 10, 20], [5, 5, 8, 9]], np.float32),
        np.array([0.9, 0.4], np.float32),
        np.array([[[1, 2, 0.8], [3, 4, 0.1]], [[6, 6, 0.5], [7, 7, 0.6]]], np.float32),
        TWO,
    )


def spec(output_format="batch"):
    return ModelSpec(model="m", skeleton=TWO, output=OutputSpec(format=output_format))


def test_batch_rows_past_the_count_are_never_people():
    outputs = {
        "num_predictions": np.array([[1], [0]]),
        "pred_boxes": np.full((2, 3, 4), 7, np.float32),
        "pred_scores": np.full((2, 3), 0.9, np.float32),
        "pred_joints": np.full((2, 3, 2, 3), 7, np.float32),
    }
    assert [len(Poses.from_outputs(outputs, spec(), image)) for image in range(2)] == [1, 0]


def test_flat_rows_go_to_their_image():
    rows = np.zeros((3, 12), np.float32)
    rows[:, 0], rows[:, 5] = [0, 2, 2], [0.5, 0.8, 0.7]
    outputs = {"flat_predictions": rows}
    assert [Poses.from_outputs(outputs, spec("flat"), image).scores.tolist() for image in range(3)] == [
        [0.5],
        [],
        pytest.approx([0.8, 0.7]),
    ]


def test_outputs_without_selection_are_refused():
    with pytest.raises(RunnerError, match="postprocessing"):
        Poses.from_outputs({}, spec("raw"))


def test_letterbox_is_undone_and_nothing_is_clipped():
    outputs = {
        "num_predictions": np.array([[1]]),
        "pred_boxes": np.array([[[-4, 6, 100, 200]]], np.float32),
        "pred_scores": np.array([[0.9]], np.float32),
        "pred_joints": np.array([[[[2, 6, 0.3], [-8, 26, 0.4]]]], np.float32),
    }
    got = Poses.from_outputs(outputs, spec(), 0, Letterbox(0.5, 2.0, left=2, top=6))
    assert got.boxes.tolist() == [[-12, 0, 196, 97]]
    assert got.joints[0, :, :2].tolist() == [[0, 0], [-20, 10]]
    assert got.joints[0, :, 2].tolist() == pytest.approx([0.3, 0.4])


def test_indexing_iterating_filtering():
    both = poses()
    assert len(both) == 2
    assert both[1].scores.tolist() == both[-1].scores.tolist() == pytest.approx([0.4])
    assert [len(pose) for pose in both] == [1, 1]
    assert len(both[:1]) == len(both[both.scores > 0.5]) == len(both.filter(0.4)) == 1
    assert len(both[np.array([1, 0])]) == 2
    assert both[both.scores.argmax()].boxes.shape == (1, 4)
    assert both != poses()  # compared by identity, because arrays have no single answer
    with pytest.raises(IndexError):
        both[2]


def test_the_reference_releases_names():
    result = PoseResult(np.zeros((30, 30, 3), np.uint8), poses(), "x.jpg")
    prediction = result.prediction
    assert prediction.bboxes_xyxy is prediction.boxes
    assert prediction.poses is prediction.joints
    assert prediction.scores.shape == (2,)
    assert prediction.edge_links == ((0, 1),)


def test_json_and_coco_rows():
    record = json.loads(poses().to_json())[0]
    assert record["box"] == {"x1": 0, "y1": 0, "x2": 10, "y2": 20}
    assert record["joints"]["tail"] == {"x": 3, "y": 4, "confidence": pytest.approx(0.1)}
    row = poses().to_coco(image_id=42)[1]
    assert (row["image_id"], row["category_id"]) == (42, 1)
    assert row["keypoints"] == pytest.approx([6, 6, 0.5, 7, 7, 0.6])
    assert row["bbox"] == [5, 5, 3, 4]
    json.dumps(poses().to_coco(1))
    result = json.loads(PoseResult(np.zeros((30, 40, 3), np.uint8), poses(), "x.jpg").to_json())
    assert (result["source"], result["width"], result["height"], len(result["poses"])) == ("x.jpg", 40, 30, 2)


def test_supervision_keypoints():
    supervision = pytest.importorskip("supervision")
    points = poses().to_supervision()
    assert isinstance(points, supervision.KeyPoints)
    np.testing.assert_array_equal(points.xy, poses().joints[:, :, :2])
    np.testing.assert_array_equal(points.keypoint_confidence, poses().joints[:, :, 2])
    np.testing.assert_array_equal(points.detection_confidence, poses().scores)


def test_drawing_touches_a_copy_and_leaves_faint_joints_out():
    image = np.zeros((40, 40, 3), np.uint8)
    person = poses()[0]
    drawn = person.draw(image, boxes=False)
    assert not image.any()
    assert drawn[2, 1].any()  # the sure joint
    assert not drawn[20:, 20:].any()
    everything = person.draw(image, joint_confidence=0.0, boxes=True)
    assert everything.astype(int).sum() > drawn.astype(int).sum()


def test_drawing_survives_numbers_far_outside_and_not_a_number():
    wild = Poses(
        np.array([[-1e9, np.nan, 1e9, np.inf]], np.float32),
        np.array([0.5], np.float32),
        np.array([[[1e30, -1e30, 1.0], [np.nan, 3, 1.0]]], np.float32),
        TWO,
    )
    assert wild.draw(np.zeros((10, 10, 3), np.uint8)).shape == (10, 10, 3)


def test_links_are_followed_and_devices_spared(tmp_path):
    import os

    result = PoseResult(np.zeros((30, 30, 3), np.uint8), poses(), "x.jpg")
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "real.png").chmod(0o640)
    result.save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o640
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SourceError, match="device or a pipe"):
        result.save(tmp_path / "pipe.png")


def test_saving_is_whole_or_nothing(tmp_path, monkeypatch):
    result = PoseResult(np.zeros((30, 30, 3), np.uint8), poses(), "x.jpg")
    assert result.save(tmp_path / "a.PNG").exists()
    for path in (tmp_path / "a.xyz", tmp_path / "none", tmp_path / "missing" / "a.png", tmp_path):
        with pytest.raises(SourceError):
            result.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.PNG"]


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, ANIMALPOSE])
def test_joint_sets_are_consistent(skeleton):
    count = skeleton.num_joints
    assert len(set(skeleton.names)) == len(skeleton.sigmas) == len(skeleton.joint_colors) == count
    assert len(skeleton.edge_colors) == len(skeleton.edges)
    for left, right in skeleton.flip_pairs:
        assert skeleton.names[left].replace("left", "right") == skeleton.names[right]
        assert skeleton.sigmas[left] == pytest.approx(skeleton.sigmas[right], abs=0.02)
    assert Skeleton.for_joint_count(count) is skeleton
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


def test_unknown_joint_counts_get_plain_names():
    assert Skeleton.for_joint_count(5).names == ("joint_0", "joint_1", "joint_2", "joint_3", "joint_4")
