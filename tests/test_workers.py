"""Several processes: every source once and in order, whatever happens; shares of a job, and going on with one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from trt_pose import PosePredictor, RunnerError, UsageError, workers
from trt_pose.errors import SourceError
from trt_pose.images.reading import Unreadable
from trt_pose.images.sources import list_sources
from trt_pose.results.sinks import finished_sources
from trt_pose.workers import Job, stream


@pytest.fixture(scope="module")
def folder(photograph, tmp_path_factory):
    """Nine pictures, among them one that is damaged, one that moves, and one that is empty."""
    folder = tmp_path_factory.mktemp("nine")
    for index in range(7):
        PIL.Image.fromarray(photograph[index * 10 : index * 10 + 300, : 200 + index * 20]).save(folder / f"{index}.png")
    (folder / "2a.png").write_bytes((folder / "2.png").read_bytes()[:5000])
    (folder / "2b.png").write_bytes(b"")
    frames = [PIL.Image.fromarray(photograph[row : row + 200, :200]) for row in (0, 50, 100)]
    frames[0].save(folder / "3.gif", save_all=True, append_images=frames[1:])
    return folder


def described(items):
    return [
        (item.source, None, None) if isinstance(item, Unreadable) else (item.origin, item.index, len(item))
        for item in items
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_results_are_those_of_one_process_in_their_order(tiny_onnx, folder, count):
    sources = list_sources([str(folder)])
    with PosePredictor(tiny_onnx) as predictor:
        want = list(predictor.stream(sources, on_error="yield"))
    got = list(stream(Job(str(tiny_onnx), sources, streaming={"on_error": "yield"}), count))
    assert described(got) == described(want)
    assert sum(isinstance(item, Unreadable) for item in got) == 2
    for first, second in zip(want, got, strict=True):
        if isinstance(first, Unreadable):
            continue
        np.testing.assert_allclose(second.prediction.boxes, first.prediction.boxes, atol=0.01)
        assert second.image.shape == first.image.shape
        assert second.image.strides == (0, 0, 0)  # no pixels came along


def test_images_come_along_when_they_are_asked_for(tiny_onnx, folder):
    (found,) = stream(Job(str(tiny_onnx), [str(folder / "1.png")], with_images=True), 2)
    np.testing.assert_array_equal(found.image, np.asarray(PIL.Image.open(folder / "1.png")))


def test_a_strict_job_stops_where_one_process_would(tiny_onnx, folder):
    results = stream(Job(str(tiny_onnx), list_sources([str(folder)])), 2)
    assert [next(results).origin[-5:] for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(SourceError, match=r"2a\.png"):
        next(results)


def test_what_opening_raises_is_raised(tiny_onnx, tmp_path, folder):
    with pytest.raises(RunnerError, match=r"none\.onnx"):
        list(stream(Job(str(tmp_path / "none.onnx"), [str(folder / "1.png")]), 2))
    with pytest.raises(UsageError, match=r"expected 0\.2"):
        list(stream(Job(str(tiny_onnx), [str(folder / "1.png")], {"conf": 0.1}), 1))


def children():
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")  # each thread has its own
    return [int(child) for task in tasks for child in task.read_text().split()]


def gone(before):
    until = time.monotonic() + 20
    while time.monotonic() < until and (set(children()) - before or threads()):
        time.sleep(0.05)
    return not (set(children()) - before or threads())


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("trt_pose_worker")]


def test_a_process_that_is_killed_is_named(tiny_onnx, folder):
    before = set(children())
    sources = [str(folder / "1.png")] * 400
    results = stream(Job(str(tiny_onnx), sources), 2)
    next(results)
    for child in set(children()) - before:
        os.kill(child, signal.SIGKILL)
    with pytest.raises(RunnerError, match=r"predicting in process \d: the process crashed \(signal 9\)"):
        list(results)
    assert gone(before)


def test_stopping_ends_the_processes(tiny_onnx, folder):
    before = set(children())
    results = stream(Job(str(tiny_onnx), [str(folder / "1.png")] * 400), 2)
    next(results)
    results.close()
    assert gone(before)


def test_gpus_and_cores_are_shared_out():
    job = Job("pose.engine", list("abcde"))
    shares = [workers._share(job, index, 3, [4, 7]) for index in range(3)]
    assert [share.opening for share in shares] == [{"device": 4}, {"device": 7}, {"device": 4}]
    assert [share.sources for share in shares] == [["a", "d"], ["b", "e"], ["c"]]
    alone = workers._share(Job("pose.onnx", ["a"]), 0, 1000, [])
    assert alone.opening == {"threads": 1}
    assert workers._share(Job("pose.onnx", ["a"], {"threads": 3}), 0, 2, []).opening == {"threads": 3}


def run(*arguments, cwd):
    command = [sys.executable, "-m", "trt_pose.cli", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def names(path):
    return [Path(json.loads(line)["source"]).name for line in path.read_text().splitlines()]


def test_shares_are_the_whole_once(tiny_onnx, folder, tmp_path):
    found = []
    for share in (1, 2, 3):
        done = run(tiny_onnx, folder, "--shard", f"{share}/3", "--jsonl", f"{share}.jsonl", cwd=tmp_path)
        assert done.returncode in (0, 1), done.stderr
        found += names(tmp_path / f"{share}.jsonl")
    assert sorted(found) == sorted(
        [*(f"{index}.png" for index in range(7)), "2a.png", "2b.png", *(f"3.gif#{index}" for index in range(3))]
    )


def test_an_interrupted_run_goes_on(tiny_onnx, folder, tmp_path):
    whole, rest = tmp_path / "whole.jsonl", tmp_path / "rest.jsonl"
    options = ("--workers", 2, "--jsonl")
    assert run(tiny_onnx, folder, *options, whole, cwd=tmp_path).returncode == 1  # two pictures are damaged
    lines = whole.read_bytes().splitlines(keepends=True)
    assert names(whole)[5] == "3.gif#0"
    for cut in (b"", b"".join(lines[:2]), b"".join(lines[:7]), b"".join(lines[:9])[:-20]):
        rest.write_bytes(cut)
        done = run(tiny_onnx, folder, *options, rest, "--resume", cwd=tmp_path)
        assert done.returncode in (0, 1), done.stderr
        assert sorted(names(rest)) == sorted(names(whole)), cut[-80:]
    done = run(tiny_onnx, folder, *options, rest, "--resume", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing is left to do" in done.stderr


def test_going_on_without_a_file_begins(tiny_onnx, folder, tmp_path):
    done = run(tiny_onnx, folder / "1.png", "--jsonl", "new.jsonl", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "new.jsonl") == ["1.png"]


@pytest.mark.parametrize("text", ["[1, 2]\n", "a picture\n", '{"no": "source"}\n', "[\n"])
def test_a_file_of_another_kind_is_not_touched(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SourceError, match="no file that --jsonl wrote"):
        finished_sources(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", "0/3"), "--shard: got '0/3'"),
        (("--shard", "4/3"), "--shard: got '4/3'"),
        (("--shard", "half"), "expected I/N"),
        (("--workers", "0"), "--workers: got 0"),
        (("--device", "0,1"), "it is for engines"),
        (("--resume",), "goes on with the file of --jsonl"),
        (("--resume", "--jsonl", "a.jsonl", "--csv", "a.csv"), "leave --json and --csv out"),
    ],
    ids=str,
)
def test_wrong_options_are_one_sentence(tiny_onnx, folder, tmp_path, options, words):
    done = run(tiny_onnx, folder, *options, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["0", "-"])
def test_cameras_and_standard_input_are_not_for_several(tiny_onnx, tmp_path, source):
    done = run(tiny_onnx, source, "--workers", 2, cwd=tmp_path)
    assert done.returncode == 1
    assert "they are for files" in done.stderr
