"""Fetching published weights, from a server on this machine."""

import http.server
import threading

import pytest

from trt_pose import CheckpointError, UsageError, models
from trt_pose.models import weights
from trt_pose.models.catalogue import MODELS

INFO = MODELS["yolo_nas_pose_n"]
NAME = "yolo_nas_pose_n_coco_pose.pth"
DATA = b"\x80" + bytes(range(256)) * 5000  # begins as torch's older files do


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA with ranges; `break_after` bytes it drops the connection once."""

    break_after = None
    ranges = True
    page = None  # what a captive portal sends instead
    tag = "v1"
    redirect = ""
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        start = 0
        asked = self.headers.get("Range")
        type(self).requests.append(asked)
        if self.path != f"/models/{NAME}":
            self.send_error(404)
            return
        if self.redirect:
            self.send_response(302)
            self.send_header("Location", self.redirect)
            self.end_headers()
            return
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(DATA):
                self.send_error(416)
                return
        if self.headers.get("If-Range") not in (None, self.tag):
            asked, start = None, 0
        self.send_response(206 if asked and self.ranges else 200)
        body = self.page or DATA[start:]
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.break_after:
            body, type(self).break_after = body[: self.break_after], None
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    Handler.break_after, Handler.ranges, Handler.page, Handler.tag, Handler.requests = None, True, None, "v1", []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv(weights.URL_VARIABLE, f"http://127.0.0.1:{running.server_port}/models/")
        yield running
        running.shutdown()


def test_fetched_once_then_from_the_cache(server, capsys):
    path = weights.fetch(INFO, "coco_pose")
    assert path.read_bytes() == DATA
    assert "non-commercial" in capsys.readouterr().err
    assert weights.fetch(INFO, "coco_pose") == path
    assert len(Handler.requests) == 1
    assert not path.with_name(NAME + ".sha256").exists()  # it has not been loaded yet
    weights.pin(path)
    weights.discard(path)
    assert path.with_name(NAME + ".sha256").exists()
    assert path.exists()


@pytest.mark.parametrize("ranges", [True, False], ids=["server with ranges", "server without"])
def test_an_interrupted_download_is_continued(server, ranges):
    Handler.break_after, Handler.ranges = 300_000, ranges
    with pytest.raises(CheckpointError, match="broke"):
        weights.fetch(INFO, "coco_pose")
    assert not (weights.cache_folder() / NAME).exists()
    path = weights.fetch(INFO, "coco_pose")
    assert path.read_bytes() == DATA
    assert Handler.requests[-1] == "bytes=300000-"


def test_a_file_that_changed_meanwhile_is_begun_again(server):
    Handler.break_after = 300_000
    with pytest.raises(CheckpointError, match="broke"):
        weights.fetch(INFO, "coco_pose")
    part = (weights.cache_folder() / NAME).with_suffix(".part")
    part.write_bytes(b"other" * 60_000)
    Handler.tag = "v2"
    assert weights.fetch(INFO, "coco_pose").read_bytes() == DATA


def test_a_login_page_is_not_kept(server):
    Handler.page = b"<html>log in</html>"
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        weights.fetch(INFO, "coco_pose")
    Handler.page = None
    assert weights.fetch(INFO, "coco_pose").read_bytes() == DATA


def test_processes_wait_for_each_other(server):
    threads = [threading.Thread(target=weights.fetch, args=(INFO, "coco_pose")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert weights.fetch(INFO, "coco_pose").read_bytes() == DATA
    assert len(Handler.requests) == 1


def test_a_part_longer_than_the_file_begins_again(server):
    weights.cache_folder().mkdir(parents=True)
    part = (weights.cache_folder() / NAME).with_suffix(".part")
    part.write_bytes(DATA + b"more")
    part.with_suffix(".part.tag").write_text("v1")
    assert weights.fetch(INFO, "coco_pose").read_bytes() == DATA


def test_a_file_that_changed_since_first_use_is_refused(server):
    path = weights.fetch(INFO, "coco_pose")
    weights.pin(path)
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(CheckpointError, match="recorded at first use"):
        weights.fetch(INFO, "coco_pose")


def test_weights_that_cannot_be_loaded_are_fetched_again(server):
    """A mirror that served another file once does not decide for ever."""
    for _ in range(2):
        with pytest.raises(CheckpointError, match="loading"):
            models.get("yolo_nas_pose_n", pretrained_weights="coco_pose")
        assert not list(weights.cache_folder().glob("*.pth*"))
    assert len(Handler.requests) == 2


def test_weights_are_kept_when_another_number_of_joints_was_asked_for(server):
    with pytest.raises(CheckpointError, match="loading"):
        models.get("yolo_nas_pose_n", pretrained_weights="coco_pose", num_keypoints=5)
    assert (weights.cache_folder() / NAME).exists()


@pytest.mark.parametrize("address", ["http://weights.example/models", "ftp://weights.example", "http://[bad", "models"])
def test_addresses_that_others_can_change_are_refused(tmp_path, monkeypatch, address):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(weights.URL_VARIABLE, address)
    with pytest.raises(UsageError, match="expected an https or file URL, or http on this machine"):
        weights.fetch(INFO, "coco_pose")


@pytest.mark.parametrize("target", ["http://weights.example/w.pth", "ftp://127.0.0.1/w.pth", "file:///etc/passwd"])
def test_redirects_to_such_addresses_are_not_followed(server, target):
    Handler.redirect = target
    try:
        with pytest.raises(CheckpointError, match=r"[Rr]edirect"):
            weights.fetch(INFO, "coco_pose")
    finally:
        Handler.redirect = ""


@pytest.mark.parametrize("suffix", [".part", ".lock"])
def test_links_in_a_shared_cache_are_not_followed(server, tmp_path, suffix):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    weights.cache_folder().mkdir(parents=True)
    (weights.cache_folder() / NAME).with_suffix(suffix).symlink_to(victim)
    with pytest.raises(CheckpointError, match=r"(?i)symbolic link"):
        weights.fetch(INFO, "coco_pose")
    assert victim.read_text() == "mine"


def test_without_a_network_the_sentence_names_file_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(weights.URL_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "MIRRORS", ("http://127.0.0.1:9/models", "http://127.0.0.1:10/models"))
    with pytest.raises(CheckpointError) as caught:
        weights.fetch(INFO, "coco_pose")
    for word in (f"http://127.0.0.1:9/models/{NAME}", str(tmp_path / "trt_pose" / "weights" / NAME), "checkpoint_path"):
        assert word in str(caught.value)


def test_a_mirror_without_the_file(server, monkeypatch):
    monkeypatch.setenv(weights.URL_VARIABLE, f"http://127.0.0.1:{server.server_port}/elsewhere")
    with pytest.raises(CheckpointError, match="Not Found"):
        weights.fetch(INFO, "coco_pose")


def test_a_mirror_that_is_no_url(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(weights.URL_VARIABLE, "here")
    with pytest.raises(UsageError, match="file URL"):
        weights.fetch(INFO, "coco_pose")
