"""Runs command lines, each in a forked child of its own, and judges what became of them.

The parent imports everything once, so that a case costs a fork and not the imports. A fork takes no threads along, so
the parent never runs a model.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SECONDS, MOST_BYTES = 60.0, 2 << 30
# Lines of standard error that are ours: sentences, and the summary of a run. Usage errors are click's.
_OURS = re.compile(r"^(error|warning): |^(Usage: |Try |Error: |$)|^\d+ (image|frame)s?, |^epoch ")
# Control characters; a terminal obeys some of them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Case:
    """One command line.

    Attributes:
        kind: what is damaged.
        command: the arguments.
        folder: the working folder, which holds the inputs.
        outputs: names of files and folders that the command may make.
        environment: variables to set.
        replaces: an input that is named as the output, too.
    """

    kind: str
    command: list[str]
    folder: Path
    outputs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    replaces: str = ""


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        code: exit code, or minus the signal.
        seconds: how long it took.
        peak_bytes: largest memory of the process.
        stdout: what it printed.
        stderr: what it said.
        faults: what was wrong; empty for a clean end.
    """

    code: int
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str
    faults: list[str] = field(default_factory=list)


def load() -> None:
    """Imports what the verbs import when they run, so that forked children need not."""
    import trt_pose.attachment
    import trt_pose.builder.build
    import trt_pose.cli
    import trt_pose.comparison
    import trt_pose.deploy
    import trt_pose.doctor
    import trt_pose.evaluation
    import trt_pose.export
    import trt_pose.images.video
    import trt_pose.inspection
    import trt_pose.quantization
    import trt_pose.training  # noqa: F401


def run(case: Case, kill_after: float | None = None) -> Outcome:
    """Runs a case in a forked child and returns what became of it, judged; kills it after some seconds if asked."""
    before = _digests(case.folder)
    temporary = Path(tempfile.mkdtemp(prefix="fuzz_tmp_"))
    out, err = temporary / "stdout", temporary / "stderr"
    room = temporary / "tmp"
    room.mkdir()
    for path in (out, err):
        path.touch()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(case, out, err, room)
    code, peak, killed = _wait(child, start, kill_after)
    seconds = time.monotonic() - start
    stdout, stderr = (path.read_bytes().decode("utf-8", "surrogateescape") for path in (out, err))
    outcome = Outcome(code, seconds, peak, stdout, stderr)
    outcome.faults = _judge(case, outcome, killed, before, sorted(path.name for path in room.iterdir()))
    shutil.rmtree(temporary, ignore_errors=True)
    return outcome


def _be_child(case: Case, out: Path, err: Path, room: Path) -> None:
    """Becomes the command; never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        for number, path in ((1, out), (2, err)):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(opened, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(case.folder)
        os.environ.update({"TMPDIR": str(room), "XDG_CACHE_HOME": str(room.parent / "cache"), **case.environment})
        tempfile.tempdir = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch

        from trt_pose.cli import main

        torch.set_num_threads(1)
        main(case.command)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 1
        os._exit(code & 0xFF)


def _wait(child: int, start: float, kill_after: float | None) -> tuple[int, int, str]:
    """Waits for the child; kills it when it is to be killed, or takes too long or too much memory."""
    killed, peak = "", 0
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            peak = max(peak, usage.ru_maxrss << 10)
            return os.waitstatus_to_exitcode(status), peak, killed
        try:
            pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
            peak = max(peak, pages * resource.getpagesize())
        except (OSError, IndexError):
            pass
        if kill_after is not None and time.monotonic() - start > kill_after:
            killed = "killed"
        elif time.monotonic() - start > SECONDS:
            killed = f"still running after {SECONDS:.0f} s"
        elif peak > MOST_BYTES * 2:
            killed = "memory"
        if killed:
            with suppress(ProcessLookupError):  # it has not made its group yet
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _judge(case: Case, outcome: Outcome, killed: str, before: dict[str, str], left: list[str]) -> list[str]:
    faults = []
    lines = outcome.stderr.splitlines()
    if killed:
        faults.append(killed)
    elif "Traceback (most recent call last)" in outcome.stderr:
        faults.append("traceback: " + lines[-1][:160])
    elif outcome.code not in (0, 1, 2):
        faults.append(f"exit {outcome.code}")
    elif (
        outcome.code == 1 and case.command[0] != "doctor" and not re.search("^(error|warning): ", outcome.stderr, re.M)
    ):
        faults.append("exit 1 without a sentence")
    if outcome.peak_bytes > MOST_BYTES:
        faults.append("memory")
    if not faults and outcome.code != 2:
        noise = [line for line in lines if not _OURS.match(line)]
        if noise:
            faults.append("a line that is not ours: " + noise[0][:160])
        if sum(line.startswith("error: ") for line in lines) > 1:
            faults.append("two errors")
    found = outcome.code != 2 and _CONTROL.search((outcome.stdout + outcome.stderr).replace("\r\n", "\n"))
    if found:
        faults.append(f"control character {found.group()!r} printed")
    after = _digests(case.folder)
    allowed = re.compile("|".join(rf"{re.escape(name)}(/.*)?" for name in case.outputs) or r"(?!)")
    inputs = [name for name in before if name != case.replaces and not allowed.fullmatch(name)]
    faults += [f"input {name} is changed" for name in inputs if after.get(name) != before[name]]
    faults += [f"left {name}" for name in after if name not in before and not allowed.fullmatch(name)]
    # torch makes a folder of its own for compiled kernels.
    faults += [f"left {name} among the temporary files" for name in left if not name.startswith("torchinductor")]
    return faults


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
