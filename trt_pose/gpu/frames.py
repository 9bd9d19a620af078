"""Parameters of the kernels before and after an engine, as in plugins/runtime/include/trt_pose/frames.cuh."""

from __future__ import annotations

import ctypes
from importlib import resources
from pathlib import Path

from ..images.pixels import place_image
from ..spec import InputSpec, Letterbox

SOURCE = "cpp/runtime/include/trt_pose/frames.cuh"
BLOCK_THREADS, MAX_BATCH = 256, 1024  # kFrameThreads, kMaxPackBatch


class LetterboxParams(ctypes.Structure):
    """Parameters of the kernel that letterboxes one image into the network input."""

    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        *(
            (name, ctypes.c_int)
            for name in (
                "source_width", "source_height", "source_pitch", "new_width", "new_height", "left", "top", "width",
                "height", "pad", "floats",
            )
        ),
        ("unit", ctypes.c_float),
    )  # fmt: skip


class PackParams(ctypes.Structure):
    """Parameters of the kernel that packs the kept rows of a batch."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("counts", "boxes", "scores", "joints", "classes", "places", "kept", "rows")
        ),
        *((name, ctypes.c_int) for name in ("batch", "limit", "joint_count")),
        ("threshold", ctypes.c_float),
    )


def letterbox_params(
    shape: tuple[int, ...], source: int, target: int, spec: InputSpec, pitch: int | None = None
) -> tuple[LetterboxParams, Letterbox]:
    """Returns kernel parameters equivalent to :func:`trt_pose.images.pixels.letterbox`, and the letterbox.

    Args:
        shape: (H, W, 3) of the image.
        source: address of the image, uint8 RGB.
        target: address of (3, height, width) elements of ``spec.dtype``.
        spec: the input description of the file.
        pitch: bytes from one image row to the next; None when rows are contiguous.
    """
    height, width = shape[:2]
    new_h, new_w, placed = place_image(height, width, spec)
    params = LetterboxParams(
        source, target, width, height, 3 * width if pitch is None else pitch, new_w, new_h, placed.left, placed.top,
        spec.width, spec.height, spec.pad_value, int(spec.dtype != "uint8"), spec.white / 255,
    )  # fmt: skip
    return params, placed


def kernel_source() -> Path:
    return Path(str(resources.files("trt_pose").joinpath(SOURCE)))
