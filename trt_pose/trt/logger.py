"""TensorRT's logger, and the start of its runtime and builder.

TensorRT keeps the logger of the first runtime or builder for the life of the process and passes over later ones
(https://github.com/NVIDIA/TensorRT/issues/1475). So there is one logger for each TensorRT, and it is never freed.
Several threads share it, and each takes its own errors.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import defaultdict, deque
from typing import Any

from ..errors import EngineError
from ..gpu.device import driver_version
from ..operators.tensorrt_plugin import take_error
from .flavor import Flavor

_ERRORS_SHOWN = 3
_ERRORS_KEPT = 32  # of each thread

_logs: dict[int, Log] = {}  # by the identity of the module, which the log keeps alive
_opening = threading.Lock()


class Log:
    """The logger of one TensorRT, and the errors that it received; see :func:`open_log`.

    Attributes:
        flavor: the TensorRT that logs.
        logger: TensorRT's ILogger.
        shown: write every message but the verbose ones to standard error.
    """

    def __init__(self, flavor: Flavor) -> None:
        self.flavor, self.shown = flavor, False
        self._errors: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=_ERRORS_KEPT))
        self._readers: set[int] = set()  # threads that take their errors themselves
        self.logger = self._make()

    def _make(self) -> Any:
        trt = self.flavor.module
        kinds = trt.ILogger.Severity

        class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(_, severity: Any, message: str) -> None:  # noqa: N805 - `self` is the Log
                if severity == kinds.VERBOSE:  # nineteen messages of twenty
                    return
                if severity in (kinds.ERROR, kinds.INTERNAL_ERROR):
                    self.note(message)
                if self.shown:
                    sys.stderr.write(f"[{severity.name}] {message}\n")

        return Logger()

    def note(self, message: str) -> None:
        """Records an error of this thread."""
        self._errors[threading.get_ident()].append(" ".join(message.split()))

    def take(self) -> list[str]:
        """Returns the errors of this thread since the last call, and those of TensorRT's own threads; forgets them."""
        own = threading.get_ident()
        self._readers.add(own)
        found = list(self._errors.pop(own, ()))
        for thread in [thread for thread in list(self._errors) if thread not in self._readers]:
            found += self._errors.pop(thread, ())
        return found

    def reason(self) -> str:
        """Returns the last errors as part of a sentence, and forgets them."""
        return ("; ".join(self.take()[-2:]) or "no reason was given")[:400].rstrip(".")

    def failure(self, action: str, details: list[str], rest: str = "") -> EngineError:
        """Returns the error of a failed step and writes its reasons to standard error.

        The first reason is the exception of a plugin callback, if one was raised.

        Args:
            action: what failed.
            details: reasons besides those that were logged.
            rest: where more is written, a sentence.
        """
        reason = take_error()
        parts = [*([str(reason)] if reason else []), *details, *self.take()]
        sys.stderr.writelines(f"{part}\n" for part in parts)
        short = list(dict.fromkeys(part[:300].rstrip(".") for part in parts))
        more = f"; and {len(short) - _ERRORS_SHOWN} more" if len(short) > _ERRORS_SHOWN else ""
        shown = "; ".join(short[:_ERRORS_SHOWN]) or "no reason was given"
        return EngineError(f"{action} with {self.flavor}: {shown}{more}.{rest and ' ' + rest}")


def open_log(flavor: Flavor) -> Log:
    """Returns the log of a TensorRT, the same one in every call."""
    with _opening:
        key = id(flavor.module)
        if key not in _logs:
            _logs[key] = Log(flavor)
        return _logs[key]


def start_runtime(log: Log) -> Any:
    """Returns a new IRuntime. Raises EngineError when TensorRT does not start, as with a driver that is too old."""
    return _start(log, "Runtime")


def start_builder(log: Log) -> Any:
    """Returns a new IBuilder. Raises EngineError when TensorRT does not start, as with a driver that is too old."""
    return _start(log, "Builder")


def _start(log: Log, kind: str) -> Any:
    check_driver(log.flavor)
    log.take()
    try:
        made = getattr(log.flavor.module, kind)(log.logger)
    except TypeError as error:  # the bindings' answer to a null pointer
        raise _not_started(log, log.take()) from error
    errors = log.take()
    if errors:
        # What TensorRT returns then may be no object; it is neither used nor destroyed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        raise _not_started(log, errors)
    return made


def check_driver(flavor: Flavor) -> None:
    """Raises EngineError when the driver is too old for the CUDA that TensorRT was built for."""
    here = driver_version()
    if here is not None and flavor.cuda and here[0] < flavor.cuda:
        raise EngineError(
            f"starting {flavor}: it was built for CUDA {flavor.cuda}, and the driver supports CUDA {here[0]}.{here[1]}."
            f" Update the driver, or install TensorRT for CUDA {here[0]} (pip install tensorrt-cu{here[0]})."
        )


def _not_started(log: Log, errors: list[str]) -> EngineError:
    here = driver_version()
    driver = f"the driver supports CUDA {here[0]}.{here[1]}" if here else "there is no driver"
    reason = ("; ".join(errors[:2]) or "it gave no reason")[:400].rstrip(".")
    return EngineError(f"starting {log.flavor}: {reason}; {driver}. Check the driver, or run the ONNX file.")
