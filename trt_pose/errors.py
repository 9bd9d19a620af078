"""The error tree, and the sentence where torch is missing.

Every error the package raises on purpose is a :class:`PoseError` whose message is one sentence of the form
"what we did: got X, expected Y. Do Z." The command line prints that sentence and exits with code 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class PoseError(Exception):
    """Base of every error raised on purpose by trt_pose."""


class UsageError(PoseError, ValueError):
    """A wrong argument: an unknown name, a value out of range, options that exclude each other."""


class SourceError(PoseError):
    """An image, folder, video or camera that cannot be read."""


class CheckpointError(PoseError):
    """A weights file that is missing, damaged, unsafe, or belongs to another model."""


class TrainingError(PoseError):
    """A training that cannot go on."""


class ExportError(PoseError):
    """An ONNX file that could not be made, or whose outputs differ from torch."""


class CalibrationError(PoseError):
    """Calibration data or a calibration cache that cannot be used."""


class EngineError(PoseError):
    """An engine that could not be built, read or described."""


class RunnerError(PoseError):
    """A model file that cannot be opened or run here."""


class MissingDependencyError(PoseError, ImportError):
    """An optional package that is not installed; the message says which extra brings it."""


@contextmanager
def torch_needed(doing: str, extra: str) -> Iterator[None]:
    """Around imports that need torch: without it a MissingDependencyError that names the extra which brings it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingDependencyError(
            f"{doing}: torch is not installed. Run: pip install 'trt-pose[{extra}]'"
        ) from error
