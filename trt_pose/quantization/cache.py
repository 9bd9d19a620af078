"""The calibration cache, which holds thresholds and their origin; and TensorRT's text format.

TensorRT's cache holds only names and scales, so TensorRT accepts the cache of another model without a warning. The
cache of trt_pose records the model, images and method that it was made with, and is rejected when they differ.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import Count, Magnitude, Name, convert, read, to_json
from ..errors import CalibrationError
from ..files import write_atomically

_VERSION = 3  # of the format and of the calibration algorithm; caches of other versions are rejected
IMPORTED = "imported"  # replaces the digest when the images are unknown
_HEADER = re.compile(r"TRT-(\d+)-EntropyCalibration2")


@dataclass(frozen=True)
class CalibrationCache:
    """Thresholds of one model, found on one set of images by one method.

    Attributes:
        thresholds: magnitude that maps to 127, by tensor name.
        model: SHA-256 of the graph and weights that compute the tensors.
        preprocessing: the input description, as JSON.
        data: SHA-256 of the images as fed, independent of their order; ``imported`` when they are unknown.
        images: number of images.
        method: the :class:`trt_pose.CalibrationMethod`, and the percentile if it has one.
        versions: versions of the programs that made the cache, for information.
    """

    thresholds: dict[Name, Magnitude]
    model: Name
    preprocessing: Name
    data: Name
    images: Count
    method: Name
    versions: Name

    def check(self, **expected: str) -> None:
        """Raises CalibrationError when ``model``, ``preprocessing``, ``data`` or ``method`` differs, and names it."""
        for name, value in expected.items():
            found = getattr(self, name)
            if found != value and not (name == "data" and found == IMPORTED):
                short = 16 if name in ("model", "data") else 200
                raise CalibrationError(
                    f"using the calibration cache: its {name} is {found[:short]!r}, this run's is {value[:short]!r}."
                    " Delete the file to calibrate again, or name another with --cache."
                )

    def write(self, path: str | Path) -> None:
        """Writes the cache as JSON, atomically. Raises CalibrationError when the file cannot be written."""
        text = to_json({"trt_pose_calibration": _VERSION, **asdict(self)}, indent=1)
        write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), CalibrationError)

    @classmethod
    def read(cls, path: str | Path) -> CalibrationCache:
        """Reads a cache. Raises CalibrationError when the file is missing, damaged or of another version."""
        tensorrt = "A cache of TensorRT is taken in by: trt-pose calibration import."
        what, mend = "a trt_pose calibration cache", f"Delete it and calibrate. {tensorrt}"
        record: dict[str, Any] = read(path, dict, what, CalibrationError, mend)
        try:
            if record.get("trt_pose_calibration") != _VERSION:
                raise ValueError("another version")
            return convert(record, cls)
        except ValueError as error:
            raise CalibrationError(f"reading {path}: not {what} ({error}). {mend}") from error


def tensorrt_version(text: str) -> int:
    """Converts ``10.3.0`` or ``100300`` to the number in a cache's first line. Raises CalibrationError otherwise."""
    if re.fullmatch(r"\d{4,6}", text):
        return int(text)
    parts = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.\d+)?", text)
    if not parts:
        raise CalibrationError(f"TensorRT version: got {text!r}, expected the form 10.3.0.")
    major, minor, patch = int(parts[1]), int(parts[2]), int(parts[3] or 0)
    return major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch


def to_tensorrt(thresholds: Mapping[str, float], version: str) -> str:
    """Returns the text of an ``EntropyCalibration2`` cache: threshold / 127 as big-endian float32 in hexadecimal."""
    lines = [f"TRT-{tensorrt_version(version)}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', value / 127.0).hex()}" for name, value in thresholds.items()]
    return "\n".join(lines) + "\n"


def write_tensorrt(thresholds: Mapping[str, float], path: str | Path, version: str) -> None:
    """Writes the text of :func:`to_tensorrt` to a file, atomically."""
    text = to_tensorrt(thresholds, version)
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), CalibrationError)


def from_tensorrt(text: str) -> tuple[int, dict[str, float]]:
    """Parses a TensorRT cache; returns TensorRT's version number and the thresholds by tensor name.

    Raises:
        CalibrationError: not a calibration cache, a cache of another calibrator, or a damaged line.
    """
    first, *lines = text.splitlines() or [""]
    header = _HEADER.fullmatch(first.strip())
    if not header:
        raise CalibrationError(
            f"reading a TensorRT calibration cache: it begins with {first[:60]!r}, expected"
            " TRT-<version>-EntropyCalibration2. Check the file."
        )
    thresholds = {}
    for number, line in enumerate(filter(str.strip, lines), start=2):
        name, _, digits = line.rpartition(": ")  # tensor names may hold colons
        if not name or not re.fullmatch(r"[0-9a-f]{8}", digits.strip()):
            raise CalibrationError(
                f"reading a TensorRT calibration cache: line {number} is {line[:60]!r}. Make it again."
            )
        value = struct.unpack(">f", bytes.fromhex(digits.strip()))[0] * 127.0
        if not np.isfinite(value) or value < 0:
            raise CalibrationError(
                f"reading a TensorRT calibration cache: {name} has the range {value}. Make the cache again."
            )
        thresholds[name] = value
    return int(header[1]), thresholds
