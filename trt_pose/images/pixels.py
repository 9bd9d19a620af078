"""Decoding of images, the letterbox, and its inverse.

Prediction, calibration and evaluation all use this module. The letterbox is that of super-gradients: the new size is
computed with Python's ``round`` (half to even), uint8 pixels are resized bilinearly, the padding is constant, and an
image that already has the new size is not resized.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..spec import InputSpec, Letterbox

Image = npt.NDArray[np.uint8]  # (H, W, 3) uint8, RGB


def decode(data: bytes, origin: str = "image") -> Image:
    """Decodes a JPEG, PNG, WebP, BMP or TIFF file held in memory.

    Grey and palette images are converted to RGB, 16-bit images are scaled to 8 bits, transparency is dropped, and the
    EXIF orientation is applied.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        SourceError: the bytes are not an image, or the image is truncated.
    """
    if not data:
        raise SourceError(f"decoding {origin}: the file is empty. Give a JPEG, PNG, WebP, BMP or TIFF image.")
    if (data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < 0) or (
        data.startswith(b"\x89PNG") and b"IEND" not in data
    ):
        # libjpeg and libpng fill missing rows with grey, so a truncated image would give wrong poses without an error.
        raise SourceError(f"decoding {origin}: the file is truncated. Fetch it again.")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(
            f"decoding {origin}: not an image OpenCV can read. Give a JPEG, PNG, WebP, BMP or TIFF image."
        )
    return np.ascontiguousarray(pixels[:, :, ::-1]).astype(np.uint8, copy=False)


def read(path: str | Path) -> Image:
    """Reads and decodes one image file, to (H, W, 3) uint8 RGB.

    Raises:
        SourceError: the file is missing, cannot be read, or is not an image.
    """
    path = Path(path)
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise SourceError(f"reading {path}: {error.strerror or error}. Check the path.") from error


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
