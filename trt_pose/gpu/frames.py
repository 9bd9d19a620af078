"""Parameters of the kernels before and after an engine, as in plugins/runtime/include/trt_pose/frames.cuh."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..images.pixels import place_image
from ..spec import InputSpec, Letterbox
from .kernels import packaged_source

BLOCK_THREADS, MAX_BATCH = 256, 1024  # kFrameThreads, kMaxPackBatch
TILE_WIDTH, TILE_HEIGHT = 64, 16  # kTileWidth, kTileHeight

# One image on its way into the network input; the struct Frame.
FRAME = np.dtype(
    [
        ("place", np.float32, 4),
        ("source", np.uint64),
        ("stepX", np.float64),
        ("stepY", np.float64),
        *(
            (name, np.int32)
            for name in (
                "sourceWidth", "sourceHeight", "sourcePitch", "newWidth", "newHeight", "left", "top", "unused",
            )
        ),
    ]
)  # fmt: skip


class LetterboxParams(ctypes.Structure):
    """Parameters of the kernel that letterboxes the images of a batch into the network input."""

    _fields_ = (
        ("frames", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("width", "height", "pad", "floats")),
        ("unit", ctypes.c_float),
    )


class PackParams(ctypes.Structure):
    """Parameters of the kernel that packs the kept rows of a batch."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("counts", "boxes", "scores", "joints", "classes", "frames", "kept", "rows")
        ),
        *((name, ctypes.c_int) for name in ("batch", "limit", "joint_count")),
        ("threshold", ctypes.c_float),
    )


def letterbox_params(frames: int, target: int, spec: InputSpec) -> LetterboxParams:
    """Returns kernel parameters equivalent to :func:`trt_pose.images.pixels.letterbox`.

    Args:
        frames: address of an array of :data:`FRAME`, one for each image.
        target: address of (B, 3, height, width) elements of ``spec.dtype``.
        spec: the input description of the file.
    """
    return LetterboxParams(
        frames, target, spec.width, spec.height, spec.pad_value, int(spec.dtype != "uint8"), spec.white / 255
    )


def letterbox_grid(images: int, spec: InputSpec) -> tuple[int, int]:
    """Returns the grid of the letterbox kernel: tiles of an image, and images."""
    return -(-spec.width // TILE_WIDTH) * -(-spec.height // TILE_HEIGHT), images


def fill_frames(
    frames: npt.NDArray[Any], shapes: Sequence[tuple[int, ...]], sources: Sequence[int], spec: InputSpec,
    pitches: Sequence[int] | None = None,
) -> list[Letterbox]:  # fmt: skip
    """Writes what the letterbox kernel reads of each image; returns the letterboxes.

    Args:
        frames: (B) of :data:`FRAME`, which is written.
        shapes: (H, W, 3) of each image.
        sources: address of each image, uint8 RGB.
        spec: the input description of the file.
        pitches: bytes from one row of an image to the next; None when rows are contiguous.
    """
    letterboxes = []
    for index, (shape, source) in enumerate(zip(shapes, sources, strict=True)):
        height, width = shape[:2]
        new_h, new_w, placed = place_image(height, width, spec)
        pitch = 3 * width if pitches is None else pitches[index]
        # OpenCV's rounding: the inverse of the ratio, not the ratio of the inverse.
        frames[index] = (
            (placed.scale_x, placed.scale_y, placed.left, placed.top), source, 1.0 / (new_w / width),
            1.0 / (new_h / height), width, height, pitch, new_w, new_h, placed.left, placed.top, 0,
        )  # fmt: skip
        letterboxes.append(placed)
    return letterboxes


def kernel_source() -> Path:
    return packaged_source("runtime/include/trt_pose/frames.cuh")
