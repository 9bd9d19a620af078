"""Reading of videos, streams, cameras and animations, whole and damaged, and writing of videos."""

import http.server
import io
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from trt_pose import SourceError
from trt_pose.images import video
from trt_pose.images.reading import Frame, Reading, Unreadable
from trt_pose.images.sources import open_source
from trt_pose.images.video import BrokenVideoError, VideoFrame, reconnect

LEVELS = tuple(range(0, 240, 8))
LENIENT = Reading(strict=False)


def make_video(path, codec="mjpeg", levels=LEVELS, rate=10, container=None, **options):
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for level in levels:
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return path


def levels_of(frames):
    return [round(float(frame.image.mean())) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.mp4", "libx264", None), ("a.ts", "libx264", None), ("a.mts", "libx264", "mpegts"), ("a.avi", "mjpeg", None),
        ("a.mkv", "libx264", None), ("a.webm", "libvpx-vp9", None), ("clip", "libx264", "mp4"),
        ("photo.bin", "mjpeg", "avi"),
    ],
)  # fmt: skip
def test_a_video_is_one_by_its_content(tmp_path, name, codec, container):
    make_video(tmp_path / name, codec, container=container)
    frames = open_source(tmp_path / name)
    assert frames.video
    found = list(frames)
    assert levels_of(found) == pytest.approx(LEVELS, abs=4)
    assert [frame.index for frame in found] == list(range(30))
    assert [frame.time_s for frame in found] == pytest.approx([index / 10 for index in range(30)], abs=1e-3)
    assert found[3].source == f"{tmp_path / name}#3"
    assert found[0].clip.file == tmp_path / name
    assert found[0].clip.rate == 10


def test_every_nth_frame(tmp_path):
    found = list(open_source(make_video(tmp_path / "a.mp4", "libx264"), Reading(stride=7)))
    assert [frame.index for frame in found] == [0, 7, 14, 21, 28]


def picture(level):
    return PIL.Image.fromarray(np.full((8, 8, 3), level, np.uint8))


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff", "avif"])
def test_animations_and_pages(tmp_path, kind):
    path, options = tmp_path / f"a.{kind}", {} if kind == "tiff" else {"duration": 100}
    pages = [picture(level) for level in (0, 80, 160)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    frames = open_source(path)
    assert (frames.total, frames.single) == (3, False)
    found = list(frames)
    assert levels_of(found) == pytest.approx([0, 80, 160], abs=4)
    times = [frame.time_s for frame in found]
    assert times == ([None] * 3 if kind == "tiff" else pytest.approx([0, 0.1, 0.2], abs=0.02))
    assert [frame.source for frame in found] == [f"{path}#{index}" for index in range(3)]
    picture(50).save(tmp_path / f"one.{kind}")
    single = open_source(tmp_path / f"one.{kind}")
    assert single.single
    (frame,) = single
    assert (frame.index, frame.source) == (None, str(tmp_path / f"one.{kind}"))


def test_every_kind_of_image_in_a_folder_and_below(tmp_path):
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    for index, name in enumerate(("a.gif", "b.avif", "c", "d.jpeg", "below/e.png", "below/deeper/f.webp")):
        kind = {"c": "png", "d.jpeg": "jpeg"}.get(name, name.rpartition(".")[2])
        with (tmp_path / name).open("wb") as file:
            picture(index * 20).save(file, kind)
    (tmp_path / "notes.md").write_text("no image")
    assert len(list(open_source(tmp_path))) == 4
    assert len(list(open_source(tmp_path, Reading(recursive=True)))) == 6
    (tmp_path / "below" / "e.png").unlink()
    with pytest.raises(SourceError, match=r"no images in it.*Folders within it are read with --recursive"):
        open_source(tmp_path / "below")


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def picture_starts(data):
    """Where the pictures of a Motion JPEG begin."""
    return [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]


def test_what_a_cut_video_holds_is_kept(tmp_path):
    path = make_video(tmp_path / "a.avi")
    data = path.read_bytes()
    starts = picture_starts(data)
    path.write_bytes(data[: (starts[12] + starts[13]) // 2])  # in the middle of the 13th picture
    *frames, last = open_source(path, LENIENT)
    assert levels_of(frames) == pytest.approx(LEVELS[:12], abs=4)
    assert isinstance(last, Unreadable)
    assert "12 of 30 frames could be read" in str(last.error)
    with pytest.raises(BrokenVideoError, match="12 of 30 frames could be read"):
        list(open_source(path))


def test_damaged_frames_are_left_out_and_the_rest_is_read(tmp_path):
    path = make_video(tmp_path / "a.avi", levels=range(0, 200, 10))
    data = bytearray(path.read_bytes())
    starts = picture_starts(data)
    data[starts[10] + 2 : starts[10] + 300] = bytes(298)  # in the middle of the tenth picture
    path.write_bytes(bytes(data))
    found = list(open_source(path, LENIENT))
    assert len([item for item in found if isinstance(item, Frame)]) >= 18
    assert "of 20 frames could be read; the file is damaged or cut" in str(found[-1].error)


def test_a_cut_animation_keeps_its_first_frames(tmp_path):
    rng = np.random.default_rng(0)
    pages = [PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(6)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    cut(tmp_path / "a.gif", 0.6)
    found = list(open_source(tmp_path / "a.gif", LENIENT))
    assert 2 <= sum(isinstance(item, Frame) for item in found) < 6


def test_one_bad_file_does_not_end_a_list(tmp_path):
    for name in ("a.png", "c.png"):
        picture(40).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    for source in (tmp_path, [tmp_path / name for name in ("a.png", "b.png", "missing.png", "c.png")]):
        found = list(open_source(source, LENIENT))
        assert [Path(item.source).name for item in found if isinstance(item, Frame)] == ["a.png", "c.png"]
        assert Path(found[1].source).name == "b.png"
        with pytest.raises(SourceError, match=r"b\.png"):
            list(open_source(source))


def test_a_list_of_paths_in_a_file(tmp_path):
    picture(40).save(tmp_path / "a.png")
    picture(80).save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text(f"# pictures\na.png\n\n{tmp_path / 'b.png'}\n")
    assert levels_of(open_source(tmp_path / "list.txt")) == [40, 80]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SourceError, match="it lists no paths"):
        open_source(tmp_path / "empty.txt")


@pytest.mark.parametrize("kind", ["png", "mp4"])
def test_bytes_and_standard_input(tmp_path, kind, monkeypatch):
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        picture(40).save(path)
    else:
        make_video(path, "libx264")
    for source in ("-", "/dev/stdin"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        assert len(list(open_source(source))) == (1 if kind == "png" else 30)
    assert len(list(open_source(path.read_bytes()))) == (1 if kind == "png" else 30)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "got an empty name"), ("  ", "got an empty name"), ("a\0b", "cannot hold a zero byte"),
        (-1, "there is none of that number"), (99, "there is none of that number"),
        (10**12, "there is none of that number"), ("/dev/null", "it is a pipe or device"),
    ],
    ids=str,
)  # fmt: skip
def test_sources_that_never_reach_native_code(source, words):
    with pytest.raises(SourceError, match=words):
        list(open_source(source))


def test_names_that_cannot_be_decoded(tmp_path):
    name = os.fsdecode(b"na\xefve.mp4")
    make_video(tmp_path / "a.mp4", "libx264")
    (tmp_path / "a.mp4").rename(tmp_path / name)
    assert len(list(open_source(tmp_path / name))) == 30


def test_a_file_that_is_no_video_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(SourceError, match="not an image, and not a video that FFmpeg can read"):
        open_source(tmp_path / "a.mp4")


def test_a_playlist_reaches_no_other_file(tmp_path):
    """FFmpeg's playlists name files and addresses; a file of one is no reason to open them."""
    make_video(tmp_path / "a.ts", "libx264")
    lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:3", "#EXTINF:3,", str(tmp_path / "a.ts"), "#EXT-X-ENDLIST", "")
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    with pytest.raises(SourceError, match="not a video that FFmpeg can read"):
        list(open_source(tmp_path / "list.m3u8"))


@pytest.fixture
def server(tmp_path):
    """Serves /mjpeg as cameras do, /clip a video without a suffix, /photo a picture, /page text."""
    make_video(tmp_path / "clip", "libx264", container="mp4", movflags="faststart")
    buffer = io.BytesIO()
    picture(120).save(buffer, "jpeg")
    jpeg = buffer.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kinds = {
                "/mjpeg": "multipart/x-mixed-replace; boundary=frame", "/clip": "application/octet-stream",
                "/photo": "image/jpeg", "/page": "text/html",
            }  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", kinds[self.path])
            self.end_headers()
            try:
                if self.path == "/mjpeg":
                    for _ in range(5):
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                else:
                    body = {"/clip": (tmp_path / "clip").read_bytes(), "/photo": jpeg}.get(self.path, b"<html>")
                    self.wfile.write(body)
            except OSError:  # the client had seen enough
                pass

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_an_address_is_what_its_server_says(server):
    camera = open_source(f"{server}/mjpeg", LENIENT)
    assert camera.video
    assert sum(isinstance(item, Frame) for item in camera) >= 4
    clip = open_source(f"{server}/clip", LENIENT)
    assert clip.video
    assert sum(isinstance(item, Frame) for item in clip) == 30
    (photo,) = open_source(f"{server}/photo")
    assert levels_of([photo]) == [120]
    with pytest.raises(SourceError, match="text/html"):
        list(open_source(f"{server}/page"))


def test_a_stream_is_opened_again_when_it_breaks_off(monkeypatch):
    opened, reported, pauses = [], [], []

    def read():
        opened.append(1)
        yield VideoFrame(np.zeros((2, 2, 3), np.uint8), 0, 0.0)
        if len(opened) % 2:
            raise BrokenVideoError("it broke off.")

    monkeypatch.setattr(video.time, "sleep", pauses.append)
    found = list(itertools.islice(reconnect(read, reported.append), 5))
    assert [frame.index for frame in found] == [0, 1, 2, 3, 4]
    assert len(opened) == 5
    assert len(reported) == 2
    assert pauses == [1.0] * 4


def test_a_camera_of_the_list_that_is_missing_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", "from trt_pose.images.sources import open_source; list(open_source(-1))"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "opening camera -1: there is none of that number" in done.stderr


def test_closing_a_stream_closes_its_file(tmp_path):
    frames = iter(open_source(make_video(tmp_path / "a.mp4", "libx264")))
    next(frames)
    frames.close()  # type: ignore[attr-defined]


def test_a_codec_that_ffmpeg_does_not_know_is_one_sentence(tmp_path):
    data = make_video(tmp_path / "a.mp4", "libx264").read_bytes()
    assert data.count(b"avc1") >= 1
    (tmp_path / "b.mp4").write_bytes(data.replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    with pytest.raises(SourceError, match="has no decoder for its pictures"):
        list(open_source(tmp_path / "b.mp4"))
