"""Ids that stay with people and objects from frame to frame."""

import csv
import importlib.util
import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trt_pose import MissingDependencyError, PosePredictor, SourceError, UsageError
from trt_pose.cli import main
from trt_pose.images.reading import Clip, Unreadable
from trt_pose.images.synthetic_clip import SyntheticClip
from trt_pose.images.synthetic_files import write_clip
from trt_pose.results.detections import DetectionResult, Detections
from trt_pose.results.poses import PoseResult, Poses
from trt_pose.results.tracking import Tracks
from trt_pose.skeleton import COCO

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "tracking.py"
IMAGE = np.zeros((100, 400, 3), np.uint8)
WALK = Clip("walk.mp4", Fraction(25))
needs_trackers = pytest.mark.skipif(importlib.util.find_spec("trackers") is None, reason="needs trackers")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tracking_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # it imports what lies beside it
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(script, tmp_path_factory):
    with PosePredictor(script.export_demo(tmp_path_factory.mktemp("demo")), providers=["cpu"]) as predictor:
        yield predictor


def people(*lefts, scores=None, clip=WALK, index=0):
    """A frame with people of 20 x 60 px, whose boxes begin at these x."""
    boxes = np.array([[x, 20, x + 20, 80] for x in lefts], np.float32).reshape(-1, 4)
    joints = np.zeros((len(lefts), 17, 3), np.float32)
    scores = np.array(scores or [0.9] * len(lefts), np.float32)
    times = {} if clip is None else {"index": index, "time_s": index / 25}
    return PoseResult(IMAGE, Poses(boxes, scores, joints, COCO), "walk", clip=clip, **times)


def begun(*lefts, confidence=0.0, tracker="bytetrack", **options):
    """Tracks that saw these people twice: an id is given when somebody is seen again."""
    tracks = Tracks(tracker, confidence)
    assert tracks.update(people(*lefts, **options)).poses.ids.tolist() == [-1] * len(lefts)
    tracks.update(people(*lefts, index=1, **options))
    return tracks


@needs_trackers
@pytest.mark.parametrize("seed", [0, 3])
def test_people_keep_their_ids_in_sparse_clips(script, demo, seed):
    clip = SyntheticClip(120, seed=seed)
    found = script.score(clip, script.find_people(demo, clip, clip.rate), "bytetrack")
    assert found["idf1"] >= 0.9
    assert found["switches"] <= 2
    assert found["tracks"] <= found["people"] + 1


@needs_trackers
@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort", "sort"])
def test_ids_follow_people_whatever_their_order(tracker):
    """The best score comes first, and people change places in that order."""
    tracks = begun(0, 200, tracker=tracker)
    for index in range(2, 20):
        frame = people(3 * index, 200 - 3 * index, index=index)
        if index % 2:
            frame = replace(frame, poses=frame.poses[[1, 0]])
        ids = tracks.update(frame).poses.ids
        assert ids.tolist() == ([1, 0] if index % 2 else [0, 1])


@needs_trackers
def test_people_who_are_gone_for_a_moment_keep_their_ids():
    tracks = begun(0)
    for index in range(2, 30):
        gone = 10 <= index < 16
        ids = tracks.update(people(*([] if gone else [index]), index=index)).poses.ids
        assert ids.tolist() == ([] if gone else [0])


@needs_trackers
def test_time_passes_between_frames_as_the_source_says():
    """Someone who was gone for half a second comes back; someone of long ago is another one."""
    assert begun(5).update(people(5, index=14)).poses.ids.tolist() == [0]
    assert begun(5).update(people(5, index=500)).poses.ids.tolist() == [-1]


@needs_trackers
def test_each_video_begins_again_and_pictures_are_one_sequence():
    tracks, other = begun(0, 100), replace(WALK, name="other.mp4")
    assert tracks.update(people(100, clip=other)).poses.ids.tolist() == [-1]
    assert tracks.update(people(100, clip=other, index=1)).poses.ids.tolist() == [0]
    assert tracks.update(people(0, 90, clip=None)).poses.ids.tolist() == [-1, -1]
    assert tracks.update(people(91, 1, clip=None)).poses.ids.tolist() in ([0, 1], [1, 0])


@needs_trackers
def test_what_has_no_box_has_no_id():
    tracks, frame = begun(0, 100, 200), people(0, 100, 200, index=2)
    frame.poses.boxes[0, 2] = np.nan
    frame.poses.boxes[1] = frame.poses.boxes[1, [2, 1, 0, 3]]
    found = tracks.update(frame).poses
    assert found.ids.tolist() == [-1, -1, 2]
    assert [person["id"] for person in found.to_dicts()] == [None, None, 2]
    assert json.loads(found.to_json())[0]["id"] is None


@needs_trackers
def test_low_scores_begin_no_track_but_continue_one():
    tracks = begun(0, 100, confidence=0.25, scores=[0.9, 0.3])
    assert tracks.update(people(1, 101, scores=[0.3, 0.3], index=2)).poses.ids.tolist() == [0, -1]
    sure = begun(0, confidence=0.6, scores=[0.55])
    assert sure.update(people(0, scores=[0.55], index=2)).poses.ids.tolist() == [-1]


@needs_trackers
def test_ids_are_in_every_form_of_a_result():
    found = begun(0, 100, 200).update(people(0, 100, 200, index=2))
    poses = found.poses
    assert poses[1:].ids.tolist() == [1, 2]
    assert poses[2].ids.tolist() == [2]
    assert poses.filter(0.5).ids.tolist() == [0, 1, 2]
    assert [row["id"] for row in found.to_rows()] == [0, 1, 2]
    assert [int(row["id"]) for row in csv.DictReader(found.to_csv().splitlines())] == [0, 1, 2]
    assert poses.to_supervision().data["tracker_id"].tolist() == [0, 1, 2]
    assert (found.draw() != people(0, 100, 200).draw()).any()
    assert "id" not in people(0).poses.to_dicts()[0]


@needs_trackers
def test_objects_are_followed_too():
    boxes = np.array([[0, 0, 20, 20], [100, 0, 140, 40]], np.float32)
    objects = Detections(boxes, np.float32([0.9, 0.8]), np.array([1, 0]), ("dog", "cat"))
    frame = DetectionResult(IMAGE, objects, "a", clip=WALK, index=0, time_s=0.0)
    tracks = Tracks()
    for index in range(3):
        found = tracks.update(replace(frame, index=index, time_s=index / 25))
    assert [item["id"] for item in found.to_dict()["detections"]] == [0, 1]
    assert found.detections.to_supervision().tracker_id.tolist() == [0, 1]
    assert (found.draw() != frame.draw()).any()


@needs_trackers
def test_sources_that_cannot_be_read_pass_through():
    lost = Unreadable("x.jpg", SourceError("decoding x.jpg: it is empty."))
    first, second, third = begun(0).follow([people(0, index=2), lost, people(1, index=3)])
    assert second is lost
    assert first.poses.ids.tolist() == third.poses.ids.tolist() == [0]


@needs_trackers
def test_a_video_on_the_command_line(demo, script, tmp_path, capsys):
    truth = write_clip(SyntheticClip(30, seed=1), tmp_path / "walk.mp4")
    model = script.export_demo(tmp_path)
    paths = [tmp_path / name for name in ("o.jsonl", "o.csv")]
    options = ["--jsonl", str(paths[0]), "--csv", str(paths[1]), "--save", str(tmp_path / "drawn"), "--provider", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(model), str(tmp_path / "walk.mp4"), "--track", *options])
    assert ended.value.code in (0, None)
    records = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert len(records) == 30
    ids = {person["id"] for record in records for person in record["poses"]}
    assert ids <= {0, 1, 2, None}
    assert len(ids - {None}) >= len({note["track_id"] for note in json.loads(truth.read_text())["annotations"]})
    assert {"", "0"} <= {row["id"] for row in csv.DictReader(paths[1].read_text().splitlines())}
    assert (tmp_path / "drawn" / "walk.mp4").stat().st_size > 1000
    with pytest.raises(UsageError, match="expected one of bytetrack, ocsort, sort"):
        demo.stream(tmp_path / "walk.mp4", track="deep")


def test_without_trackers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingDependencyError, match="tracking: trackers is not installed"):
        Tracks()
