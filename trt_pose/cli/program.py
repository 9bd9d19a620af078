"""The command line: parse, call one function, print. The commands are listed in the order of their imports here."""

from __future__ import annotations

import io
import sys
import warnings

from ..errors import PoseError, UnreadableWarning
from ..optional import BACK_TO_HEADLESS
from .app import app, say, wrong_value

# isort: off
from . import models, export, attach, quantize, calibration, build, plugin
from . import predict, bench, deploy
from . import inspect, doctor, compare, evaluate
from . import train, synthesize

# isort: on

__all__ = [
    "app", "attach", "bench", "build", "calibration", "compare", "deploy", "doctor", "evaluate", "export", "inspect",
    "models", "plugin", "predict", "quantize", "run", "synthesize", "train",
]  # fmt: skip

# Spellings of other tools.
_SPELLINGS = {
    ("--backend", "trt"): "tensorrt",
    ("--backend", "onnx"): "onnxruntime",
    ("--backend", "ort"): "onnxruntime",
}


def _respell(arguments: list[str]) -> list[str]:
    """``--imgsz 480 640``, two words as users of other exporters write it, to ``--imgsz 480x640``; other spellings."""
    words = [_SPELLINGS.get(pair, pair[1]) for pair in zip(["", *arguments], arguments, strict=False)]
    if "--imgsz" in words:
        at = words.index("--imgsz")
        if all(word.isdigit() for word in words[at + 1 : at + 3]) and len(words) > at + 2:
            words[at + 1 : at + 3] = [f"{words[at + 1]}x{words[at + 2]}"]
    return words


def run(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal's encoding does not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = _respell(arguments)
    lost: list[Warning | str] = []

    def warn(message: Warning | str, category: type[Warning], *_args: object, **_kwargs: object) -> None:
        say(f"warning: {message}", sys.stderr, lines=False)
        if issubclass(category, UnreadableWarning):
            lost.append(message)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UnreadableWarning)
            warnings.showwarning = warn
            code = app(args=words, prog_name="trt-pose", standalone_mode=False)
    except PoseError as error:
        say(f"error: {error}", sys.stderr, lines=False)
        return 1
    except ImportError as error:
        if "libGL" not in str(error):
            raise
        say(f"error: importing cv2: {error}. Run: {BACK_TO_HEADLESS}", sys.stderr, lines=False)
        return 1
    except Exception as error:
        return _show_click_error(error, words)
    return code if isinstance(code, int) else int(bool(lost))


def _show_click_error(error: Exception, words: list[str]) -> int:
    """Prints an error of the command line's parser and returns the exit code; raises other exceptions again.

    The exceptions of click and of the click inside newer versions of Typer are told by their names.
    """
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "Abort" in kinds:
        return 130
    if "ClickException" not in kinds:
        raise error
    if "BadParameter" in kinds and "MissingParameter" not in kinds:
        say(f"error: {wrong_value(error, words)}", sys.stderr, lines=False)
        return 1
    error.show()  # type: ignore[attr-defined]  # the usage and what is wrong
    return int(getattr(error, "exit_code", 2))
