"""Outputs of a run: pictures, videos, records as they come; nothing that was there is replaced."""

import csv
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from trt_pose import SourceError, UsageError
from trt_pose.images.reading import Clip, Unreadable
from trt_pose.images.video import VideoWriter
from trt_pose.results.poses import PoseResult, Poses
from trt_pose.results.sinks import CsvFile, Drawings, JsonFile, JsonLines, Outputs
from trt_pose.skeleton import COCO

NOBODY = Poses(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 17, 3), np.float32), COCO)


def someone(confidence=0.9):
    box, scores = np.array([[1, 2, 30, 40]], np.float32), np.array([confidence], np.float32)
    return Poses(box, scores, np.ones((1, 17, 3), np.float32), COCO)


def result(source, poses=NOBODY, clip=None, index=None, size=(48, 64)):
    return PoseResult(
        np.zeros((*size, 3), np.uint8), poses, source, index=index, time_s=index and index / 10, clip=clip
    )


def frames(clip, count):
    return [result(f"{clip.name}#{index}", clip=clip, index=index) for index in range(count)]


def test_pictures_of_the_same_name_do_not_overwrite_each_other(tmp_path):
    folder = Drawings(tmp_path / "new" / "folder", frames=True)
    clip, camera = Clip("clip.mp4"), Clip("camera 0")
    results = [
        result("a/x.png"), result("b/x.png"), result("clip.mp4#7", clip=clip, index=7),
        result("http://host/y.webp?size=1"), result("camera 0#3", clip=camera, index=3), result("array 5"), result(""),
        result("z.gif"),
    ]  # fmt: skip
    assert [folder.write(item).name for item in results] == [
        "x.png", "x_2.png", "clip_000007.jpg", "y.webp", "camera_0_000003.jpg", "array_5.jpg", "image.jpg", "z.jpg",
    ]  # fmt: skip


def test_a_video_for_each_video_and_a_picture_for_each_picture(tmp_path):
    drawings = Drawings(tmp_path / "drawn")
    for item in [*frames(Clip("a.avi", Fraction(10)), 5), result("p.jpg"), *frames(Clip("b.ts", Fraction(30)), 3)]:
        drawings.write(item)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir() if path.name[0] != ".") == ["p.jpg"]
    drawings.close()
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.mp4", "b.mp4", "p.jpg"]
    for name, count, rate in (("a", 5, 10), ("b", 3, 30)):
        with av.open(str(tmp_path / "drawn" / f"{name}.mp4")) as video:
            stream = video.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", rate)
            assert sum(1 for _ in video.decode(stream)) == count


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1), (2, 301)])
def test_videos_of_any_size(tmp_path, size):
    with VideoWriter(tmp_path / "v.mp4", Fraction(25)) as writer:
        for _ in range(2):
            writer.write(np.zeros((*size, 3), np.uint8))
        writer.write(np.zeros((80, 60, 3), np.uint8))  # a stream that changes its size
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


def test_one_video_or_one_picture_by_its_name(tmp_path):
    drawings = Drawings(tmp_path / "out.mkv")
    for item in [result("a.jpg"), result("b.jpg"), *frames(Clip("c.avi"), 2)]:
        drawings.write(item)
    drawings.close()
    with av.open(str(tmp_path / "out.mkv")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 4
    picture = Drawings(tmp_path / "out.png")
    assert picture.write(result("a.jpg")) == tmp_path / "out.png"
    with pytest.raises(UsageError, match="that is one picture, and there are several"):
        picture.write(result("b.jpg"))


def test_the_sound_of_the_source_is_kept(tmp_path):
    source = tmp_path / "source.mp4"
    with av.open(str(source), "w") as output:
        video, audio = output.add_stream("libx264", rate=10), output.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        output.mux(audio.encode(sound))
        output.mux(video.encode())
        output.mux(audio.encode())
    drawings = Drawings(tmp_path / "drawn")
    for item in frames(Clip(str(source), Fraction(10), source), 10):
        drawings.write(item)
    drawings.close()
    with av.open(str(tmp_path / "drawn" / "source.mp4")) as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
        assert sum(1 for _ in video.decode(video=0)) == 10


def test_nothing_that_was_there_is_replaced(tmp_path):
    (tmp_path / "x.png").write_bytes(b"mine")
    (tmp_path / "v.mp4").write_bytes(b"mine")
    for path, item in ((tmp_path, result("a/x.png")), (tmp_path, *frames(Clip("v.avi"), 1))):
        with pytest.raises(SourceError, match=r"is there already\. Name another file, or add --overwrite"):
            Drawings(path).write(item)
    for name in ("x.png", "v.mp4"):
        with pytest.raises(SourceError, match="is there already"):
            Drawings(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"mine"
    for kind in (JsonFile, JsonLines, CsvFile):
        with pytest.raises(SourceError, match="is there already"):
            kind(tmp_path / "x.png")
    Drawings(tmp_path, overwrite=True).write(result("a/x.png"))
    assert (tmp_path / "x.png").read_bytes() != b"mine"


def test_a_source_is_not_replaced_even_when_asked(tmp_path):
    sources = [tmp_path / "x.png", tmp_path / "x_poses.png"]
    for source in sources:
        source.write_bytes(b"source")
    drawings = Drawings(tmp_path, overwrite=True, sources=sources)
    assert drawings.write(result(str(tmp_path / "x.png"))).name == "x_2.png"
    with pytest.raises(SourceError, match="it is a source of this run"):
        Drawings(tmp_path / "x.png", overwrite=True, sources=sources)
    assert [source.read_bytes() for source in sources] == [b"source", b"source"]


def test_records_of_all_kinds(tmp_path):
    lost = Unreadable("bad.jpg", SourceError("decoding bad.jpg: the file is truncated."))
    clip = Clip("v.mp4")
    items = [result("a.jpg", someone()), lost, result("v.mp4#3", someone(0.5), clip, 3), result("b.jpg")]
    with Outputs(
        None, [JsonFile(tmp_path / "a.json"), JsonLines(tmp_path / "a.jsonl"), CsvFile(tmp_path / "a.csv")]
    ) as out:
        for item in items:
            out.write(item)
        # JSON lines are there at once, the others when the run ends.
        assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 4
        assert not (tmp_path / "a.json").exists()
    records = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records == lines
    assert records[1] == {"source": "bad.jpg", "error": "decoding bad.jpg: the file is truncated."}
    assert (records[2]["index"], records[2]["time_s"]) == (3, 0.3)
    assert "index" not in records[0]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    found = [(row["source"], row["number"], row["nose_x"]) for row in rows]
    assert found == [("a.jpg", "0", "1.0"), ("v.mp4#3", "0", "1.0")]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SourceError, SystemExit])
def test_what_was_found_survives_any_end(tmp_path, end):
    def run():
        with Outputs(Drawings(tmp_path / "drawn"), [JsonFile(tmp_path / "a.json")]) as out:
            for item in frames(Clip("v.avi"), 3):
                out.write(item)
            raise end

    with pytest.raises(end):
        run()
    assert len(json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))) == 3
    with av.open(str(tmp_path / "drawn" / "v.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_finds_nothing_writes_an_empty_array(tmp_path):
    with Outputs(None, [JsonFile(tmp_path / "a.json"), CsvFile(tmp_path / "a.csv")]):
        pass
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == []
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == ""


def test_a_result_in_words_in_a_table_and_in_a_notebook():
    found = result("a.jpg", someone())
    assert repr(found) == "PoseResult('a.jpg', 64 x 48, 1 person: 0.90)"
    assert repr(result("a.jpg")) == "PoseResult('a.jpg', 64 x 48, 0 people)"
    assert found._repr_png_().startswith(b"\x89PNG")
    assert found.poses["nose"].shape == (1, 3)
    assert (found.poses.xy.shape, found.poses.confidence.shape) == ((1, 17, 2), (1, 17))
    with pytest.raises(UsageError, match=r"there is no 'noze'\. Did you mean 'nose'\?"):
        found.poses["noze"]
    assert found.to_csv().splitlines()[0].startswith("source,index,time_s,number,score,x1,y1,x2,y2,nose_x")
    assert result("a.jpg").to_csv() == ""
    assert found.to_coco()[0]["image_id"] == 1
