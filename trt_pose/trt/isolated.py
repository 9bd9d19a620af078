"""Calls a function in a process of its own.

TensorRT's parser, builder and deserializer may crash, and two TensorRTs do not share a process. The child is a fresh
interpreter. ``multiprocessing`` is not used, because its spawned children run the caller's main script again.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

if TYPE_CHECKING:
    from ..errors import PoseError

T = TypeVar("T")


def call(
    function: Callable[..., T],
    *args: Any,
    doing: str,
    log: Path | None = None,
    on_progress: Callable[[Any], None] | None = None,
    timeout_s: float | None = None,
    who: str = "TensorRT",
    error: type[PoseError] | None = None,
) -> T:
    """Returns ``function(*args)``, called in a new process.

    What the function prints, in Python or C++, goes to ``log``. The child does not search the working directory for
    modules, and it ends with its parent.

    Args:
        function: a function of an importable module.
        args: picklable arguments.
        doing: how an error about the process begins, as ``building m.engine``.
        log: file for the output; a temporary one when None.
        on_progress: called with each value that the function reports; the function then gets one more argument,
            ``report``, to report them with.
        timeout_s: give up after so many seconds.
        who: what crashes when the process does, for the error.
        error: type of that error; EngineError when None.

    Raises:
        EngineError: the process crashed or did not answer in time, or ``log`` cannot be written.
        Exception: whatever ``function`` raised, as it was raised.
    """
    from ..errors import EngineError  # not at the top: the child runs this file as a script

    crash = error or EngineError
    with ExitStack() as stack:
        output = stack.enter_context(_open_log(log))
        process = _start(output, stack)
        expired: list[bool] = []
        if timeout_s is not None:
            timer = Timer(timeout_s, _expire, (process, expired))
            timer.start()
            stack.callback(timer.cancel)
        calls, answers = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)  # both are pipes
        with suppress(BrokenPipeError):  # a child that died at once is reported below
            pickle.dump((os.fspath(_root()), _safe_path(), os.getpid()), calls)
            pickle.dump((function, args, on_progress is not None), calls)
            calls.close()
        answer = _follow(answers, on_progress)
        code = process.wait()
        if answer is None:
            if expired:
                raise crash(f"{doing}: {who} gave no answer in {timeout_s:g} s. Build the engine again.")
            died = f"signal {-code}" if code < 0 else f"exit code {code}"
            rest = f" See {log}." if log else ""
            raise crash(f"{doing}: {who} crashed ({died}): {_last_line(output)[:200]}.{rest}")
    result, problem = answer
    if problem is not None:
        raise problem
    value: T = result
    return value


def _open_log(log: Path | None) -> BinaryIO:
    from ..errors import EngineError

    if log is None:
        return tempfile.TemporaryFile()
    try:
        return log.open("w+b")
    except OSError as error:
        raise EngineError(f"writing {log}: {error.strerror}. Choose a writable place with room.") from error


def _start(output: BinaryIO, stack: ExitStack) -> subprocess.Popen[bytes]:
    """The child, which is killed when ``stack`` is left before it has ended."""
    # -I: neither the working directory nor PYTHON* variables decide what is imported before the path arrives.
    command = [sys.executable, "-I", __file__]
    process = subprocess.Popen(  # noqa: S603 - this file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def _expire(process: subprocess.Popen[bytes], expired: list[bool]) -> None:
    expired.append(True)
    process.kill()


def _root() -> Path:
    """The folder that holds the package."""
    return Path(__file__).resolve().parent.parent.parent


def _safe_path() -> list[str]:
    """The places modules come from here, without the working directory."""
    here = Path.cwd().resolve()
    return [place for place in sys.path if place and Path(place).resolve() != here]


def _follow(answers: BinaryIO, on_progress: Callable[[Any], None] | None) -> tuple[Any, BaseException | None] | None:
    """Passes progress on; the result and the exception, or None when the child died without either."""
    while True:
        try:
            kind, value = pickle.load(answers)  # noqa: S301 - from our own child
        except (EOFError, pickle.UnpicklingError):
            return None
        if kind == "progress":
            if on_progress is not None:
                on_progress(value)
            continue
        return (value, None) if kind == "result" else (None, value)


def _last_line(output: BinaryIO) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _serve() -> None:
    """The child: reads the call from standard input, writes progress and the answer to standard output."""
    root, path, parent = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    _die_with(parent)
    sys.path[:] = [root, *path]
    import trt_pose  # noqa: F401 - its submodules are found beside it from here on

    sys.path[:] = path
    function, args, reports = pickle.load(sys.stdin.buffer)  # noqa: S301
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints goes to the log

    def send(kind: str, value: Any) -> None:
        answers.write(pickle.dumps((kind, value)))
        answers.flush()

    try:
        options = {"report": lambda value: send("progress", value)} if reports else {}
        send("result", function(*args, **options))
    except Exception as error:  # the process is the boundary: the parent raises it again
        traceback.print_exc()
        send("error", _picklable(error))
    sys.stdout.flush()
    os._exit(0)  # skips TensorRT's destructors, which may crash after the answer was sent


def _picklable(error: Exception) -> Exception:
    from trt_pose.errors import EngineError, first_line

    error.__traceback__ = None
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made one line above
    except Exception:  # whatever a foreign exception does when it is copied
        return EngineError(f"{type(error).__name__}: {first_line(error)}")
    return error


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, however that happens (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)


if __name__ == "__main__":
    _serve()
