"""Decoding of images by Pillow, the letterbox, and its inverse.

Prediction, calibration and evaluation all use this module. The letterbox is that of super-gradients: the new size is
computed with Python's ``round`` (half to even), uint8 pixels are resized bilinearly, the padding is constant, and an
image that already has the new size is not resized.
"""

from __future__ import annotations

import io
import itertools
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from ..errors import SourceError, first_line
from ..files import check_readable
from ..spec import InputSpec, Letterbox

Image = npt.NDArray[np.uint8]  # (H, W, 3) uint8, RGB
_PILLOW = r"PIL\."
_counting, _decoders = threading.Lock(), 0
_KINDS = "a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image"
_ORIENTATION = 0x0112  # tag of EXIF
_SEQUENCES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats that hold several pictures to show one after another


def decode(data: bytes, origin: str = "image") -> Image:
    """Decodes an image file held in memory, by Pillow; the first picture of a file that holds several.

    Grey, palette and CMYK images are converted to RGB, 16-bit images are scaled to 8 bits, transparency is dropped, and
    the EXIF orientation is applied.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        SourceError: the bytes are not an image, or the image is truncated.
    """
    return next(decode_all(data, origin))[0]


def decode_all(data: bytes, origin: str = "image") -> Iterator[tuple[Image, float | None]]:
    """Yields the pictures of an image file: the frames of an animation, the pages of a TIFF, or the one picture.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and the time at which an animation shows it, s; None without one.

    Raises:
        SourceError: see :func:`decode`; also after the pictures that could be read.
    """
    if not data:
        raise SourceError(f"decoding {origin}: the file is empty. Give {_KINDS}.")
    time_s = 0.0
    for number in itertools.count():
        with _decoding(origin):
            if number == 0:
                picture = PIL.Image.open(io.BytesIO(data))
                several = picture.format in _SEQUENCES and getattr(picture, "n_frames", 1) > 1
            elif several and number < getattr(picture, "n_frames", 1):
                picture.seek(number)
            else:
                return
            pixels = from_pil(picture)
            duration_s = picture.info.get("duration", 0) / 1e3
        yield pixels, time_s if several and picture.format != "TIFF" else None
        time_s += duration_s


def count_pictures(data: bytes) -> int:
    """Returns the number of pictures in an image file; 0 when it is none, or is damaged."""
    try:
        with _decoding("image"):
            picture = PIL.Image.open(io.BytesIO(data))
            return int(getattr(picture, "n_frames", 1)) if picture.format in _SEQUENCES else 1
    except SourceError:
        return 0


def from_pil(picture: Any) -> Image:
    """Converts a PIL image to (H, W, 3) uint8 RGB: applies EXIF, scales 16 bits to 8, drops transparency.

    Each step that a picture does not need would copy it: of 24 ms for a JPEG of 1920 x 1080, 14 were copies.
    """
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits, in 16 or 32
        grey = (np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def allow_pixels(most: int) -> None:
    """Sets the largest number of pixels of an image in this process; Pillow's default is 178,956,970."""
    PIL.Image.MAX_IMAGE_PIXELS = most // 2  # Pillow warns at this number, and refuses at twice as many


@contextmanager
def _silent() -> Iterator[None]:
    """Ignores Pillow's warnings, about damaged metadata and large images, while any thread decodes.

    ``warnings.catch_warnings`` is not safe in threads: it puts back a list that another thread has replaced.
    """
    global _decoders  # noqa: PLW0603 - the filters are global, too
    with _counting:
        _decoders += 1
        if _decoders == 1:
            warnings.filterwarnings("ignore", module=_PILLOW)
    try:
        yield
    finally:
        with _counting:
            _decoders -= 1
            if not _decoders:
                with suppress(ValueError):  # the caller's own catch_warnings has replaced the list
                    warnings.filters.remove(("ignore", None, Warning, re.compile(_PILLOW), 0))  # type: ignore[attr-defined]


@contextmanager
def _decoding(origin: str) -> Iterator[None]:
    """Turns what Pillow raises into a SourceError; its plugins raise nearly anything for a damaged file."""
    try:
        with _silent():
            yield
    except PIL.UnidentifiedImageError as error:
        raise SourceError(f"decoding {origin}: not an image that Pillow can read. Give {_KINDS}.") from error
    except PIL.Image.DecompressionBombError as error:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise SourceError(
            f"decoding {origin}: it has more than {limit:,} pixels. Make it smaller, or allow more: --max-pixels,"
            " images.pixels.allow_pixels()."
        ) from error
    except Exception as error:
        reason = first_line(error).rstrip(".")
        if "truncated" in reason or isinstance(error, EOFError):
            raise SourceError(f"decoding {origin}: the file is truncated. Fetch it again.") from error
        raise SourceError(f"decoding {origin}: the image is damaged ({reason[:120]}). Fetch it again.") from error


def read(path: str | Path) -> Image:
    """Reads and decodes one image file, to (H, W, 3) uint8 RGB.

    Raises:
        SourceError: the file is missing, cannot be read, or is not an image.
    """
    path = check_readable(path, "reading", SourceError)
    return decode(path.read_bytes(), str(path))


def as_rgb(array: npt.NDArray[np.generic], origin: str = "array") -> Image:
    """Converts a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) to an RGB image; alpha is dropped.

    Raises:
        SourceError: the array has another shape or dtype, or no pixels.
    """
    if array.dtype != np.uint8:
        raise SourceError(
            f"reading {origin}: got dtype {array.dtype}, expected uint8 in 0..255. Convert it"
            " (a float image in 0..1: (image * 255).astype('uint8'))."
        )
    if array.ndim == 2:
        array = array[:, :, None]  # (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise SourceError(
            f"reading {origin}: got shape {array.shape}, expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with"
            " pixels. Put the channels last."
        )
    pixels = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
    return np.ascontiguousarray(pixels).astype(np.uint8, copy=False)


def example_path() -> Path:
    """Returns the path of the packaged photograph: the astronaut Eileen Collins (NASA, public domain)."""
    return Path(str(resources.files("trt_pose").joinpath("assets/astronaut.jpg")))


def example() -> Image:
    """Returns the packaged photograph, (512, 512, 3) uint8 RGB."""
    return read(example_path())


def letterbox(image: Image, spec: InputSpec) -> tuple[npt.NDArray[np.uint8], Letterbox]:
    """Places an image in the network input according to ``spec``.

    Args:
        image: (H, W, 3) uint8, RGB.
        spec: the input description of the model file.

    Returns:
        The input (3, spec.height, spec.width) uint8 RGB and the placement of the image in it. A file that takes images
        of any size gets the size of the resized image.
    """
    new_h, new_w, placed = place_image(image.shape[0], image.shape[1], spec)
    height, width = (new_h, new_w) if spec.takes_any_size else (spec.height, spec.width)
    if (new_h, new_w) != image.shape[:2]:
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    canvas = np.full((spec.channels, height, width), spec.pad_value, np.uint8)  # (3, H, W)
    canvas[:, placed.top : placed.top + new_h, placed.left : placed.left + new_w] = image.transpose(2, 0, 1)
    return canvas, placed


def place_image(height: int, width: int, spec: InputSpec) -> tuple[int, int, Letterbox]:
    """Returns the height and width that an image of (height, width) px is resized to, and its placement."""
    new_h, new_w, scale_y, scale_x = _resized(height, width, spec)
    centered = spec.padding == "center" and not spec.takes_any_size
    top, left = ((spec.height - new_h) // 2, (spec.width - new_w) // 2) if centered else (0, 0)
    return new_h, new_w, Letterbox(scale_x, scale_y, left, top)


def _resized(height: int, width: int, spec: InputSpec) -> tuple[int, int, float, float]:
    """Returns the height and width an image is resized to, and the vertical and horizontal factors."""
    target_h, target_w = spec.resize_to
    if spec.resize == "none":
        return height, width, 1.0, 1.0
    if spec.resize == "shortest_side":
        scale = min(target_h, target_w) / min(height, width)
        new_h, new_w = (max(round(side * scale / spec.divisor), 1) * spec.divisor for side in (height, width))
        return new_h, new_w, new_h / height, new_w / width
    if spec.resize == "stretch":
        return target_h, target_w, target_h / height, target_w / width
    scale = min(target_h / height, target_w / width)
    # At least one pixel: a side of a 1 x 5000 image would otherwise round to zero.
    return max(round(height * scale), 1), max(round(width * scale), 1), scale, scale


def undo_letterbox(points: npt.NDArray[np.float32], placed: Letterbox) -> npt.NDArray[np.float32]:
    """Moves points from the network input back to the source image.

    Args:
        points: (..., 2) float32 x, y, px of the network input.
        placed: the placement that :func:`letterbox` returned for the image.

    Returns:
        (..., 2) float32 x, y, px of the source image; not clipped to it.
    """
    offset = np.array([placed.left, placed.top], np.float32)
    scale = np.array([placed.scale_x, placed.scale_y], np.float32)
    return ((points - offset) / scale).astype(np.float32, copy=False)
