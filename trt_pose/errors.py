"""The exceptions of the package.

::

    PoseError                       every error raised on purpose
    ├── UsageError                  (also a ValueError) a wrong argument
    ├── SourceError                 an image, video or annotation file that cannot be read
    ├── CheckpointError             a weights file
    ├── TrainingError               a training run
    ├── ExportError                 an ONNX file that could not be made or read
    ├── CalibrationError            calibration data or caches
    ├── EngineError                 an engine that could not be built, read or described
    ├── RunnerError                 a model file that cannot be opened or run
    └── MissingDependencyError      (also an ImportError) an optional package that is not installed

The message is one sentence of the form "what we did: got X, expected Y. Do Z." The command line prints it and exits
with code 1.
"""


class PoseError(Exception):
    """Base of every error raised on purpose by trt_pose."""


class UsageError(PoseError, ValueError):
    """A wrong argument: an unknown name, a value out of range, options that exclude each other."""


class SourceError(PoseError):
    """An image, folder, video, camera or annotation file that cannot be read, or a result that cannot be written."""


class CheckpointError(PoseError):
    """A weights file that is missing, damaged, unsafe, or belongs to another model."""


class TrainingError(PoseError):
    """A training run that cannot continue."""


class ExportError(PoseError):
    """An ONNX file that could not be made, or whose outputs differ from torch."""


class CalibrationError(PoseError):
    """Calibration data or a calibration cache that cannot be used."""


class EngineError(PoseError):
    """An engine that could not be built, read or described."""


class RunnerError(PoseError):
    """A model file that cannot be opened or run here."""


class UnreadableWarning(UserWarning):
    """An image that could not be read while the rest was used; the command line then exits with code 1."""


class MissingDependencyError(PoseError, ImportError):
    """An optional package that is not installed; the message says how to install it."""


def first_line(error: object, default: str = "no reason was given") -> str:
    """Returns the first line of an exception's message, or the name of its type when the message is empty."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0].strip()
    return type(error).__name__ if isinstance(error, BaseException) else default
