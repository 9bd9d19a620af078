"""Calibration data: whatever holds images, as checked batches the model file takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import image as images
from ..errors import CalibrationError, PoseError
from ..sources import open_source
from ..types import InputSpec

Pixels = npt.NDArray[Any]

# Images read at a time from a folder, where the file does not fix the number.
_READ_TOGETHER = 4
# A batch that fills less of the range than this was divided by 255 once too often.
_LEAST_SPAN = 1.0 / 128.0
_END = object()


def open_batches(data: Any, spec: InputSpec, limit: int | None = None) -> Iterator[Pixels]:
    """Batches (B, 3, H, W) of the element type the file takes, B as the data has it.

    Args:
        data: a folder, glob or list of image files, letterboxed as for inference; or an iterable of batches, a torch
            ``DataLoader`` above all: arrays or tensors, or tuples and dicts whose first element is the images.
            ``"random"`` gives noise, for a graph whose accuracy does not matter.
        spec: the input description of the model file.
        limit: batches taken; None takes all.

    Raises:
        CalibrationError: no batch, wrong shape, wrong range, NaN, or the loader raised (its exception is the cause).
    """
    batches = _random(spec, limit) if isinstance(data, str) and data == "random" else _open(data, spec)
    count = 0
    while limit is None or count < limit:
        try:
            item = next(batches, _END)
        except PoseError:
            raise
        except Exception as error:  # whatever a caller's loader raises
            raise CalibrationError(
                f"reading calibration batch {count}: the loader raised {type(error).__name__}: {error}. Mend the"
                " loader; what was counted so far is kept."
            ) from error
        if item is _END:
            break
        yield check_batch(item, spec, count)
        count += 1
    if count == 0:
        raise CalibrationError(
            "calibrating: the loader gave no batch, expected at least one. Check the folder or the data set."
        )


def check_batch(item: Any, spec: InputSpec, index: int = 0) -> Pixels:
    """One batch as the file takes it. Raises CalibrationError when it is no such batch."""
    array = _as_array(item, index)
    shape = (spec.channels, spec.height, spec.width)
    if array.ndim != 4 or array.shape[1:] != shape or len(array) == 0:
        turned = array.ndim == 4 and array.shape[1:] == (spec.height, spec.width, spec.channels)
        mend = "Put the channels first." if turned else "Resize and pad as the file's description says."
        raise CalibrationError(
            f"reading calibration batch {index}: got shape {array.shape}, expected (images, {spec.channels},"
            f" {spec.height}, {spec.width}). {mend}"
        )
    if array.dtype == np.uint8:
        return _from_grey(array, spec)
    if not np.issubdtype(array.dtype, np.floating):
        raise CalibrationError(
            f"reading calibration batch {index}: got {array.dtype}, expected uint8 or floating point. Convert it."
        )
    _check_range(array, spec, index)
    return np.rint(array).astype(np.uint8) if spec.dtype == "uint8" else array.astype(np.float32)


def _from_grey(array: npt.NDArray[np.uint8], spec: InputSpec) -> Pixels:
    """uint8 RGB to what the file takes: the photometric step is applied here only where the file lacks it."""
    if spec.dtype == "uint8":
        return array
    values = array.astype(np.float32)
    if spec.normalized_in_graph:
        return values
    policy = spec.normalization
    values = values[:, ::-1] if policy.channels == "BGR" else values
    mean, std = (np.array(item, np.float32).reshape(1, 3, 1, 1) for item in (policy.mean, policy.std))
    normalized: npt.NDArray[np.float32] = (values - mean) / std
    return normalized


def value_range(spec: InputSpec) -> tuple[float, float]:
    """Smallest and largest value the file expects."""
    if spec.normalized_in_graph:
        return 0.0, 255.0
    pairs = list(zip(spec.normalization.mean, spec.normalization.std, strict=True))
    return min((0.0 - mean) / std for mean, std in pairs), max((255.0 - mean) / std for mean, std in pairs)


def _check_range(array: Pixels, spec: InputSpec, index: int) -> None:
    low, high = value_range(spec)
    least, most = float(array.min()), float(array.max())
    found = (
        f"reading calibration batch {index}: got values from {least:.4g} to {most:.4g}, expected {low:.4g}..{high:.4g}"
    )
    if not np.isfinite([least, most]).all():
        raise CalibrationError(f"reading calibration batch {index}: it holds NaN or infinity. Check the loader.")
    slack = 0.02 * (high - low)  # interpolation overshoots a little
    if least < low - slack or most > high + slack:
        forgot = not spec.normalized_in_graph and most > 10.0 * high
        mend = "The loader forgot the division by 255." if forgot else "Normalize as the file's description says."
        raise CalibrationError(f"{found}. {mend}")
    if most - least <= (high - low) * _LEAST_SPAN and most != least:
        doubled = "takes 0..255 and divides by 255 itself" if spec.normalized_in_graph else "takes images divided once"
        raise CalibrationError(f"{found}. The loader divided by 255 once too often: the file {doubled}.")


def _as_array(item: Any, index: int) -> Pixels:
    if isinstance(item, Mapping):
        item = next(iter(item.values()), None)
    elif isinstance(item, (tuple, list)) and len(item) and not np.isscalar(item[0]):
        item = item[0]
    if hasattr(item, "detach"):  # a torch tensor, without importing torch
        item = item.detach().cpu()
    try:
        return np.asarray(item)
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f"reading calibration batch {index}: got {type(item).__name__}, expected an array of images ({error})."
        ) from error


def _open(data: Any, spec: InputSpec) -> Iterator[Any]:
    if isinstance(data, (str, Path)) or (
        isinstance(data, list) and data and all(isinstance(p, (str, Path)) for p in data)
    ):
        return _letterboxed(data, spec)
    if not isinstance(data, Iterable):
        raise CalibrationError(
            f"calibrating: got {type(data).__name__}, expected a folder, a list of images, a DataLoader or an iterable"
            " of batches. Give one of these."
        )
    return iter(data)


def _letterboxed(data: Any, spec: InputSpec) -> Iterator[Pixels]:
    frames = iter(open_source(data))
    together = spec.batch or _READ_TOGETHER
    while batch := [images.letterbox(frame.image, spec)[0] for _, frame in zip(range(together), frames, strict=False)]:
        yield np.stack(batch)


def _random(spec: InputSpec, limit: int | None) -> Iterator[Pixels]:
    generator = np.random.default_rng(0)
    for _ in range(limit or 1):
        yield generator.integers(0, 256, (spec.batch or 1, spec.channels, spec.height, spec.width), dtype=np.uint8)
