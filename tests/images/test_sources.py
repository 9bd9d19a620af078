import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_pose import SourceError
from trt_pose.images.reading import Reading
from trt_pose.images.sources import open_source


@pytest.fixture
def folder(tmp_path):
    """Three pictures of their own grey level, and a text file."""
    for level in (10, 20, 30):
        cv2.imwrite(str(tmp_path / f"{level}.png"), np.full((8, 12, 3), level, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def levels(frames):
    return [int(frame.image[0, 0, 0]) for frame in frames]


def test_folders_globs_and_files_in_order(folder):
    frames = open_source(folder)
    assert frames.total == 3
    assert levels(frames) == [10, 20, 30]
    assert levels(open_source(str(folder / "[12]*.png"))) == [10, 20]
    single = open_source(folder / "20.png")
    assert single.single
    (frame,) = single
    assert (frame.source, frame.image.shape, frame.image.dtype) == (str(folder / "20.png"), (8, 12, 3), np.uint8)


def test_a_file_whose_name_looks_like_a_glob(folder):
    (folder / "20.png").rename(folder / "a[1].png")
    assert levels(open_source(folder / "a[1].png")) == [20]


def test_arrays_bytes_pil_and_lists_of_them(folder):
    from PIL import Image

    array = np.full((4, 4, 3), 40, np.uint8)
    for source in (array, (folder / "10.png").read_bytes(), Image.fromarray(array), Image.fromarray(array[:, :, 0])):
        assert open_source(source).single
    mixed = [array, (folder / "10.png").read_bytes(), Image.fromarray(array + 1), folder / "20.png", folder]
    frames = open_source(mixed)
    assert not frames.single
    assert levels(frames) == [40, 10, 41, 20, 10, 20, 30]
    assert levels(open_source(np.stack([array, array + 5]))) == [40, 45]
    assert levels(open_source(value for value in (array, array + 2))) == [40, 42]


def test_open_files_and_tensors(folder):
    import torch

    with (folder / "10.png").open("rb") as file:
        assert levels(open_source(file)) == [10]
    assert levels(open_source(torch.full((4, 4, 3), 40, dtype=torch.uint8))) == [40]


def test_pil_images_are_read_as_their_files_are(tmp_path):
    from PIL import Image

    from trt_pose.images.pixels import read

    deep = np.full((6, 9), 256 * 99 + 3, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    turned = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    for name in ("deep.png", "turned.jpg"):
        (frame,) = open_source(Image.open(tmp_path / name))
        np.testing.assert_array_equal(frame.image, read(tmp_path / name))


def test_a_video_in_a_list_is_for_streams(video):
    assert len(list(open_source([video, video]))) == 8
    with pytest.raises(SourceError, match=r"Give it to stream\(\)"):
        list(open_source([video], Reading(videos=False)))


def test_names_of_nameless_images():
    array = np.zeros((4, 4, 3), np.uint8)
    assert [frame.source for frame in open_source([array, array])] == ["array 0", "array 1"]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))  # type: ignore[attr-defined]
    for level in (0, 60, 120, 180):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def test_videos_frame_by_frame(video):
    frames = open_source(video)
    assert frames.video
    assert frames.total == 4
    found = list(frames)
    assert [frame.source for frame in found] == [f"{video}#{index}" for index in range(4)]
    assert levels(found) == pytest.approx([0, 60, 120, 180], abs=3)


@pytest.fixture
def server(folder, video):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_urls(server):
    frames = open_source(f"{server}/30.png?size=large")
    assert frames.single
    assert levels(frames) == [30]


@pytest.mark.parametrize(("page", "words"), [("missing.png", "HTTP 404"), ("notes.txt", "not an image")])
def test_urls_that_hold_no_image(server, page, words):
    with pytest.raises(SourceError, match=words):
        list(open_source(f"{server}/{page}"))


def test_an_unreachable_host():
    with pytest.raises(SourceError, match=r"fetching http://127\.0\.0\.1:9/x\.jpg"):
        list(open_source("http://127.0.0.1:9/x.jpg"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "missing.jpg", "no such file"),
        (lambda path: path, "no images in it"),
        (lambda path: str(path / "*.jpg"), "no images in it"),
        (lambda path: [], "empty list"),
        (lambda path: 3.5, "float"),
        (lambda path: None, "NoneType"),
        (lambda path: True, "True"),
        (lambda path: "x" * 300, "File name too long"),
        (lambda path: "http://[::1/a.jpg", "not a URL"),
        (lambda path: "http://host/a b.jpg", "fetching"),
        (lambda path: np.zeros((4, 4, 3), np.float32), "float32"),
        (lambda path: np.zeros((4, 4, 3), np.uint16), "uint16"),
        (lambda path: np.zeros((3, 4, 5), np.uint8), "channels last"),
        (lambda path: b"", "empty"),
        (lambda path: b"no image", "not an image"),
    ],
)
def test_sources_that_are_none(tmp_path, make, words):
    with pytest.raises(SourceError, match=words):
        list(open_source(make(tmp_path)))


def test_a_broken_video_is_one_sentence(tmp_path, capfd):
    (tmp_path / "broken.mp4").write_bytes(b"\x00" * 100)
    with pytest.raises(SourceError, match="not a video that FFmpeg can read"):
        list(open_source(tmp_path / "broken.mp4"))


def test_a_broken_file_among_good_ones_is_named(folder):
    (folder / "15.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(SourceError, match=r"15\.png"):
        list(open_source(folder))


def test_paths_are_paths(folder):
    assert levels(open_source(str(folder / "10.png"))) == levels(open_source(Path(folder / "10.png")))
