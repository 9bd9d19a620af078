"""The command line: parse, call one function, print.

Results go to standard output, everything else to standard error. Exit codes: 0, 1 for a PoseError (one sentence),
2 for wrong usage, 130 when interrupted.
"""

from __future__ import annotations

import io
import signal
import sys
import warnings

from ..errors import PoseError
from . import (
    attach,
    bench,
    build,
    calibration,
    compare,
    doctor,
    evaluate,
    export,
    inspect,
    models,
    plugin,
    predict,
    quantize,
    synthesize,
    train,
)
from .app import app

__all__ = [
    "app", "attach", "bench", "build", "calibration", "compare", "doctor", "evaluate", "export", "inspect", "main",
    "models", "plugin", "predict", "quantize", "synthesize", "train",
]  # fmt: skip


def _join_imgsz(arguments: list[str]) -> list[str]:
    """``--imgsz 480 640`` (two words, as users of other exporters write it) to ``--imgsz 480x640``."""
    joined = list(arguments)
    if "--imgsz" in joined:
        at = joined.index("--imgsz")
        if all(word.isdigit() for word in joined[at + 1 : at + 3]) and len(joined) > at + 2:
            joined[at + 1 : at + 3] = [f"{joined[at + 1]}x{joined[at + 2]}"]
    return joined


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``trt-pose`` command."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal's encoding does not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # temporary files go, children with them
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_args, **_kwargs: print(f"warning: {message}", file=sys.stderr)
            app(args=_join_imgsz(sys.argv[1:] if arguments is None else arguments), prog_name="trt-pose")
    except PoseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
