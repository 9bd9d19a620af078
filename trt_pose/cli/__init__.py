"""The command line. This file imports little, so that an interruption while the rest is imported ends it cleanly."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["main"]

# Exit codes of a shell for SIGINT and SIGTERM.
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Writing to files is done by files.py, which raises errors of the package: these come from standard output.
_NOT_WRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_stopped: list[int] = []


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``trt-pose`` command.

    Results go to standard output, everything else to standard error. Exit codes: 0, 1 for a PoseError (one sentence), 2
    for wrong usage, 130 when interrupted, 143 when terminated.
    """
    _stopped.clear()
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _CODES:
                signal.signal(number, _stop)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by the caller
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the end
        from .program import run

        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BaseException as error:
        # Native modules turn the exception of a signal into an ImportError when they are being imported.
        if _stopped:
            sys.exit(_stopped[0])
        if isinstance(error, SystemExit):
            raise
        code = _explain(error)
    sys.exit(code)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Ends the program by SystemExit, which removes temporary files and child processes on its way.

    Not by KeyboardInterrupt: where native code evaluates Python, the interpreter remembers it, and ends by the signal.
    """
    code = _CODES[signal.Signals(number)]
    _stopped.append(code)
    sys.exit(code)


def _explain(error: BaseException) -> int:
    """Says what kept the program from running, where that is its surroundings; raises other errors again."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NOT_WRITTEN:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at the end writes there
        if error.errno == errno.EPIPE:  # the reader has seen enough
            return 1
        sentence = f"writing standard output: {error.strerror}. Choose a place with room."
    elif isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map" in str(error)):
        sentence = "starting: the memory that the process may take does not suffice. Raise its limit (ulimit -v)."
    else:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return 1
