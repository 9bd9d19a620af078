"""Fetching published weights, from a server on this machine."""

import http.server
import threading

import pytest

from trt_pose import CheckpointError, UsageError
from trt_pose.models import MODELS, weights

INFO = MODELS["yolo_nas_pose_n"]
NAME = "yolo_nas_pose_n_coco_pose.pth"
DATA = bytes(range(256)) * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA with ranges; `break_after` bytes it drops the connection once."""

    break_after = None
    ranges = True
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        start = 0
        asked = self.headers.get("Range")
        type(self).requests.append(asked)
        if self.path != f"/models/{NAME}":
            self.send_error(404)
            return
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(DATA):
                self.send_error(416)
                return
        self.send_response(206 if asked and self.ranges else 200)
        body = DATA[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.break_after:
            body, type(self).break_after = body[: self.break_after], None
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    Handler.break_after, Handler.ranges, Handler.requests = None, True, []
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
    assert path.with_name(NAME + ".sha256").exists()


@pytest.mark.parametrize("ranges", [True, False], ids=["server with ranges", "server without"])
def test_an_interrupted_download_is_continued(server, ranges):
    Handler.break_after, Handler.ranges = 300_000, ranges
    with pytest.raises(CheckpointError, match="broke"):
        weights.fetch(INFO, "coco_pose")
    assert not (weights.cache_folder() / NAME).exists()
    path = weights.fetch(INFO, "coco_pose")
    assert path.read_bytes() == DATA
    assert Handler.requests[-1] == "bytes=300000-"


def test_a_part_longer_than_the_file_begins_again(server):
    weights.cache_folder().mkdir(parents=True)
    (weights.cache_folder() / NAME).with_suffix(".part").write_bytes(DATA + b"more")
    assert weights.fetch(INFO, "coco_pose").read_bytes() == DATA


def test_a_file_that_changed_since_first_use_is_refused(server):
    path = weights.fetch(INFO, "coco_pose")
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(CheckpointError, match="recorded at first use"):
        weights.fetch(INFO, "coco_pose")


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
