"""Calibration data: images from folders, loaders or arrays, as checked batches for the model file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError, PoseError
from ..images.pixels import letterbox
from ..images.reading import Reading
from ..images.sources import open_source
from ..spec import InputSpec

Pixels = npt.NDArray[Any]
DEFAULT_BATCHES = 16  # as in super-gradients
# Images read at a time when the file has no fixed batch size; a batch of image files, where batches are counted.
_READ_TOGETHER = 4
_END = object()


def open_batches(
    data: Any, spec: InputSpec, limit: int | None = None, *, images: int | None = None, say_rest: bool = False
) -> Iterator[Pixels]:
    """Yields checked batches (B, 3, H, W) of the element type that the file takes; the data determines B.

    Args:
        data: a folder, glob or list of image files, letterboxed as for inference; or an iterable of batches, such as a
            torch ``DataLoader``. A batch is an array or tensor, or a tuple or dict whose first element is the images.
            ``"random"`` gives noise, for a graph whose accuracy does not matter. Noise of any range is spread over that
            of the file.
        spec: the input description of the model file.
        limit: number of batches to take, for image files four images each; None takes all, or 16 batches of
            ``"random"``.
        images: number of images to take; None takes all.
        say_rest: warn when image files are left over. Callers set it when the limit is the default.

    Raises:
        CalibrationError: no batch; a wrong shape, type or range; NaN; or an exception in the loader (the cause).
    """
    batches, count, seen = None, 0, 0
    while (limit is None or count < limit) and (images is None or seen < images):
        try:
            if batches is None:
                batches = _open(data, spec, images or limit)
                if isinstance(batches, _Files) and limit is not None:
                    most = limit * _READ_TOGETHER
                    limit, images = None, most if images is None else min(most, images)
            item = next(batches, _END)
        except PoseError:
            raise
        except Exception as error:  # a caller's loader may raise any exception
            raise CalibrationError(
                f"reading calibration batch {count}: the loader raised {type(error).__name__}: {error}. Mend the"
                " loader; what was counted so far is kept."
            ) from error
        if item is _END:
            break
        batch = check_batch(item, spec, count)
        batch = batch if images is None else batch[: images - seen]
        count, seen = count + 1, seen + len(batch)
        if say_rest and seen == images and isinstance(batches, _Files) and seen < (batches.total or 0):
            warnings.warn(
                f"calibrating: {seen} of {batches.total} images are used; --max-images, or images= of the calibration"
                " options, uses more.",
                stacklevel=2,
            )
        yield batch
    if count == 0:
        raise CalibrationError(
            "calibrating: the loader gave no batch, expected at least one. Check the folder or the data set."
        )


def feeds(batches: Iterable[Pixels], spec: InputSpec) -> Iterator[tuple[Pixels, int]]:
    """Splits batches of any size for a runner; yields the images of each run and how many of them are not copies.

    A fixed batch is filled up with copies of its last image. With a symbolic batch size the images run one at a time,
    so that memory does not grow with the loader's batches.
    """
    together = spec.batch or 1
    for batch in batches:
        for start in range(0, len(batch), together):
            images = batch[start : start + together]
            copies = np.repeat(images[-1:], together - len(images), axis=0)
            yield np.concatenate([images, copies]), len(images)


def check_batch(item: Any, spec: InputSpec, index: int = 0) -> Pixels:
    """Converts one batch to an array (B, C, H, W) that the file takes. Raises CalibrationError for unfit data."""
    array = _as_array(item, index)
    shape = (spec.channels, spec.height, spec.width)
    if array.ndim != 4 or array.shape[1:] != shape or len(array) == 0:
        turned = array.ndim == 4 and array.shape[1:] == (spec.height, spec.width, spec.channels)
        mend = "Put the channels first." if turned else "Resize and pad as the file's description says."
        raise CalibrationError(
            f"reading calibration batch {index}: got shape {array.shape}, expected (images, {spec.channels},"
            f" {spec.height}, {spec.width}). {mend}"
        )
    if array.dtype == np.uint8 and not spec.custom_preprocessing:
        return _from_grey(array, spec)
    if array.dtype == spec.dtype and spec.custom_preprocessing:
        return array
    if array.dtype == np.uint8 and spec.custom_preprocessing:
        raise CalibrationError(
            f"reading calibration batch {index}: got uint8 images, the file takes {spec.dtype} as its own steps expect"
            " it. Give a loader of such arrays."
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise CalibrationError(
            f"reading calibration batch {index}: got {array.dtype}, expected uint8 or floating point. Convert it."
        )
    try:
        _check_range(array, spec, index)
    except CalibrationError:
        if not is_noise(array):
            raise
        array = _spread(array, spec)
    if spec.dtype == "uint8":
        return np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return array.astype(np.float32)


def is_noise(images: Pixels) -> bool:
    """Returns whether neighbouring pixels of a batch (B, C, H, W) are unrelated, as they are in no photograph.

    The limit is a correlation of 0.1: that of random numbers is 0, that of photographs above 0.8.
    """
    left, right = (images[..., part].astype(np.float64).ravel() for part in (slice(None, -1), slice(1, None)))
    if len(left) < 1000 or not np.isfinite(images).all() or not (left.std() > 0 and right.std() > 0):
        return False
    return bool(abs(np.corrcoef(left, right)[0, 1]) < 0.1)


def _spread(noise: Pixels, spec: InputSpec) -> Pixels:
    """Returns noise over the whole range that the file takes: what it was drawn from says nothing about images."""
    low, high = value_range(spec)
    least, most = float(noise.min()), float(noise.max())
    spread: Pixels = (low + (noise.astype(np.float32) - least) * ((high - low) / (most - least))).astype(np.float32)
    return spread


def _from_grey(array: npt.NDArray[np.uint8], spec: InputSpec) -> Pixels:
    """Converts uint8 RGB to the file's input; applies the normalization only if the file does not."""
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
    """Returns the smallest and the largest value that the file expects."""
    if spec.normalized_in_graph:
        return 0.0, 255.0
    pairs = list(zip(spec.normalization.mean, spec.normalization.std, strict=True))
    return min((0.0 - mean) / std for mean, std in pairs), max((255.0 - mean) / std for mean, std in pairs)


def _check_range(array: Pixels, spec: InputSpec, index: int) -> None:
    low, high = value_range(spec)
    least, most = float(array.min()), float(array.max())
    problem = (
        f"reading calibration batch {index}: got values from {least:.4g} to {most:.4g}, expected {low:.4g}..{high:.4g}"
    )
    if not np.isfinite([least, most]).all():
        raise CalibrationError(f"reading calibration batch {index}: it holds NaN or infinity. Check the loader.")
    if spec.custom_preprocessing:
        return  # the range that a custom module takes is unknown
    slack = 0.02 * (high - low)  # interpolation overshoots a little
    if low == 0.0 and least < 0.0 and most <= 10.0 < high:
        raise CalibrationError(f"{problem}. The loader normalizes, and the file does so itself: give it 0..255.")
    if least < low - slack or most > high + slack:
        forgot = not spec.normalized_in_graph and most > 10.0 * high
        mend = "The loader forgot the division by 255." if forgot else "Normalize as the file's description says."
        raise CalibrationError(f"{problem}. {mend}")
    # Grey levels of a dark image are whole numbers; those of an image divided once too often are not.
    if low == 0.0 and 0.0 < most <= 1.001 * high / 255.0 and not (array * (255.0 / high) % 1 == 0).all():
        doubled = "takes 0..255 and divides by 255 itself" if spec.normalized_in_graph else "takes images divided once"
        raise CalibrationError(f"{problem}. The loader divided by 255 once too often: the file {doubled}.")


def _as_array(item: Any, index: int) -> Pixels:
    try:
        array = _images(item)
    except Exception as error:  # a tensor without data, or an object NumPy cannot convert
        raise CalibrationError(
            f"reading calibration batch {index}: got {type(item).__name__}, expected an array of images"
            f" ({type(error).__name__}: {error})."
        ) from error
    if array is None:
        raise CalibrationError(
            f"reading calibration batch {index}: got {type(item).__name__} without images in it, expected an array of"
            " shape (images, channels, height, width), alone or first of a tuple or dict."
        )
    return array


def _images(item: Any) -> Pixels | None:
    """Returns the first array of images in a loader's item, or None; stacks a list of single images."""
    parts = list(item.values()) if isinstance(item, Mapping) else item
    if isinstance(parts, (tuple, list)):
        arrays = (_images(part) for part in parts)
        whole = next((array for array in arrays if array is not None and array.ndim >= 3), None)
        return np.stack([np.asarray(part) for part in parts]) if whole is not None and whole.ndim == 3 else whole
    if hasattr(item, "detach"):  # a torch tensor, without importing torch
        item = item.detach().cpu()
        item = item.float() if "bfloat16" in str(item.dtype) else item
    array = np.asarray(item)
    return array if array.dtype.kind in "uifb" and array.ndim else None


def _open(data: Any, spec: InputSpec, limit: int | None) -> Iterator[Any]:
    if isinstance(data, str) and data == "random":
        return _random(spec, limit)
    files = data if isinstance(data, (list, tuple)) and data else [data]
    if all(isinstance(item, (str, Path)) for item in files):
        return _Files(data, spec)
    if isinstance(data, np.ndarray) or hasattr(data, "detach"):  # one batch, not a list of images
        return iter([data])
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise CalibrationError(
            f"calibrating: got {type(data).__name__}, expected a folder, a list of images, a DataLoader or an iterable"
            " of batches. Give one of these."
        )
    return iter(data)


class _Files:
    """Batches of image files, letterboxed as for inference.

    Attributes:
        total: number of images; None when it is unknown.
        together: images per batch.
    """

    def __init__(self, data: Any, spec: InputSpec) -> None:
        opened = open_source(data, Reading(strict=False))
        self.total, self.together = opened.total, spec.batch or _READ_TOGETHER
        self._frames, self._spec = opened.images(), spec

    def __iter__(self) -> _Files:
        return self

    def __next__(self) -> Pixels:
        frames = zip(range(self.together), self._frames, strict=False)
        batch = [letterbox(frame.image, self._spec)[0] for _, frame in frames]
        if not batch:
            raise StopIteration
        return np.stack(batch)


def _random(spec: InputSpec, limit: int | None) -> Iterator[Pixels]:
    generator = np.random.default_rng(0)
    for _ in range(limit or DEFAULT_BATCHES):
        yield generator.integers(0, 256, (spec.batch or 1, spec.channels, spec.height, spec.width), dtype=np.uint8)
