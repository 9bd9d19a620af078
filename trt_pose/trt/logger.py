"""TensorRT's logger."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..nms.tensorrt_plugin import take_error
from .flavor import Flavor

_ERRORS_SHOWN = 3


class Log:
    """A TensorRT logger, and the errors that it received.

    Args:
        flavor: the TensorRT that logs.
        shown: write every message to standard error.
        file: file that standard error is redirected to, named in the message of :meth:`failure`.
    """

    def __init__(self, flavor: Flavor, shown: bool = True, file: Path | None = None) -> None:
        trt = flavor.module
        errors: list[str] = []
        severities = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in severities:
                    errors.append(" ".join(message.split()))
                if shown:
                    sys.stderr.write(f"[{severity.name}] {message}\n")

        self.flavor, self.errors, self.logger = flavor, errors, Logger()
        self._rest = f" {file} has the rest." if file else ""

    def failure(self, action: str, details: list[str]) -> EngineError:
        """Returns the error of a failed step and writes its reasons to standard error.

        The first reason is the exception of a plugin callback, if one was raised.
        """
        reason = take_error()
        parts = [*([str(reason)] if reason else []), *details, *self.errors]
        sys.stderr.writelines(f"{part}\n" for part in parts)
        short = list(dict.fromkeys(part[:300].rstrip(".") for part in parts))
        more = f"; and {len(short) - _ERRORS_SHOWN} more" if len(short) > _ERRORS_SHOWN else ""
        shown = "; ".join(short[:_ERRORS_SHOWN]) or "no reason was given"
        return EngineError(f"{action} with {self.flavor}: {shown}{more}.{self._rest}")
