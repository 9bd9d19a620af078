"""How the command ends: signals while it imports, no standard output, no room, no memory."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRT_POSE = [sys.executable, "-m", "trt_pose.cli"]


def limited(command, **limits):
    words = " ".join(f"ulimit {option} {value} &&" for option, value in limits.items())
    return ["bash", "-c", f'{words} exec "$@"', "bash", *command]


def wait_for_handlers(pid):
    """Waits until the interpreter has started and the command has taken the signals over, before it imports."""
    for _ in range(1000):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError("the command has not started")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment(tmp_path, tiny_onnx, photo_path, number):
    """While it imports, and while it runs: no traceback, the exit code of a shell, nothing left."""
    rng = random.Random(int(number))  # noqa: S311
    for _ in range(3):
        command = [*TRT_POSE, "predict", str(tiny_onnx), *[str(photo_path)] * 200, "--json", str(tmp_path / "out.json")]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as run:
            wait_for_handlers(run.pid)
            time.sleep(rng.random() * 1.2)
            run.send_signal(number)
            _, stderr = run.communicate(timeout=60)
        assert run.returncode in (128 + number, 0), stderr
        assert "Traceback" not in stderr
        (tmp_path / "out.json").unlink(missing_ok=True)
        assert not [path for path in tmp_path.iterdir() if path.name != ".ses"]  # ONNX Runtime's own


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["inspect"], ["predict", "--json", "-"]])
def test_no_standard_output(tiny_onnx, photo_path, arguments):
    files = {"inspect": [str(tiny_onnx)], "predict": [str(tiny_onnx), str(photo_path)]}.get(arguments[0], [])
    command = [*TRT_POSE, arguments[0], *files, *arguments[1:]]
    closed = subprocess.run(["bash", "-c", 'exec "$@" >&-', "bash", *command], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr.count("Traceback")) == (0, 0), closed.stderr
    with Path("/dev/full").open("w") as full:
        no_room = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert no_room.returncode == 1
    assert [line for line in no_room.stderr.splitlines() if line.startswith("error: ")] == [
        "error: writing standard output: No space left on device. Choose a place with room."
    ]
    assert "Traceback" not in no_room.stderr


def test_no_memory_to_start(tiny_onnx, photo_path):
    command = limited([*TRT_POSE, "predict", str(tiny_onnx), str(photo_path)], **{"-v": 250_000})
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: ")
