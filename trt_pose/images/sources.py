"""Image sources: files, folders, globs, URLs, bytes, arrays, PIL images, videos, cameras, and lists of these."""

from __future__ import annotations

import glob
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import SourceError
from .pixels import Image, as_rgb, decode, read

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"))
_STREAM_SCHEMES = ("rtsp://", "rtmp://", "udp://", "tcp://")
_URL_SCHEMES = ("http://", "https://")
_TIMEOUT_S, _LARGEST_BYTES = 30, 200 << 20


@dataclass(frozen=True)
class Frame:
    """One decoded image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        source: path or name of the image, with ``#`` and the frame number for videos.
    """

    image: Image
    source: str


class Frames:
    """The frames of a source, decoded one at a time while iterating.

    Attributes:
        total: number of frames; None when it is unknown.
        single: True when the source is one image.
        video: True when the source is a video, stream or camera, which may be endless.
    """

    def __init__(
        self, frames: Iterator[Frame], total: int | None, *, single: bool = False, video: bool = False
    ) -> None:
        self._frames, self.total, self.single, self.video = frames, total, single, video

    def __iter__(self) -> Iterator[Frame]:
        return self._frames


def open_source(source: Any) -> Frames:
    """Opens any source that ``predict`` accepts.

    Args:
        source: path of an image, video or folder; glob pattern; http(s), rtsp URL; bytes of an image file; uint8
            array (H, W[, 1 | 3 | 4]) RGB or (B, H, W, 3); PIL image; camera index; or an iterable of these.

    Raises:
        SourceError: the source does not exist, is empty, or is of an unknown kind. Decoding errors are raised while
            iterating.
    """
    if isinstance(source, (str, Path)):
        return _open_text(str(source))
    if isinstance(source, bool):
        raise SourceError(f"opening a source: got {source!r}, expected an image, a path or a list. Check the argument.")
    if isinstance(source, (int, np.integer)):
        return Frames(_video(int(source), f"camera {source}"), None, video=True)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Frames(_one(lambda: decode(bytes(source), "bytes"), "bytes"), 1, single=True)
    if isinstance(source, np.ndarray):
        if source.ndim == 4:
            return open_source(list(source))
        return Frames(_one(lambda: as_rgb(source), "array"), 1, single=True)
    if hasattr(source, "read"):  # an open file
        return open_source(source.read())
    if hasattr(source, "convert") and hasattr(source, "getbands"):  # a PIL image, without importing PIL
        return Frames(_one(lambda: as_rgb(_from_pil(source), "PIL image"), "PIL image"), 1, single=True)
    if hasattr(source, "__array__"):  # a tensor
        return open_source(np.asarray(source))
    if isinstance(source, Iterable):
        return _open_many(source)
    raise SourceError(
        f"opening a source: got {type(source).__name__}, expected a path, URL, bytes, uint8 array, PIL image,"
        " camera index or a list of these. Convert it."
    )


def _open_text(text: str) -> Frames:
    if text.startswith(_STREAM_SCHEMES) or (text.startswith(_URL_SCHEMES) and _suffix(text) in VIDEO_SUFFIXES):
        return Frames(_video(text, text), None, video=True)
    if text.startswith(_URL_SCHEMES):
        return Frames(_one(lambda: decode(_fetch(text), text), text), 1, single=True)
    try:
        return _open_path(Path(text), text)
    except OSError as error:  # the name is too long, or the folder cannot be read
        raise SourceError(f"opening {text!r}: {error.strerror or error}. Check the path.") from error


def find_images(text: str) -> list[Path] | None:
    """Returns the image files of a folder or glob, sorted; None when ``text`` is neither.

    Raises:
        SourceError: the folder or glob contains no images.
    """
    path = Path(text)
    if path.is_dir():
        paths = sorted(path.iterdir())
    elif not path.exists() and glob.has_magic(text):
        paths = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - for absolute globs
    else:
        return None
    paths = [item for item in paths if item.suffix.lower() in IMAGE_SUFFIXES and item.is_file()]
    if not paths:
        raise SourceError(f"opening {text!r}: no images in it ({', '.join(sorted(IMAGE_SUFFIXES))}). Check the path.")
    return paths


def _open_path(path: Path, text: str) -> Frames:
    files = find_images(text)
    if files is not None:
        return Frames((Frame(read(item), str(item)) for item in files), len(files))
    if not path.exists():
        raise SourceError(f"opening {text!r}: there is no such file, folder or URL. Check the path.")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Frames(_video(text, text), _frame_count(text), video=True)
    return Frames(_one(lambda: read(path), text), 1, single=True)


def _open_many(sources: Iterable[Any]) -> Frames:
    """Opens each item when it is reached. Raises SourceError for an empty list; a generator cannot be checked."""
    total = len(sources) if isinstance(sources, (list, tuple)) else None
    if total == 0:
        raise SourceError("opening a source: got an empty list, expected at least one image. Check what filled it.")

    def frames() -> Iterator[Frame]:
        for index, item in enumerate(sources):
            opened = open_source(item)
            if opened.video:
                raise SourceError(f"opening a list: {item!r} is a video or camera. Give it alone, to stream().")
            for frame in opened:
                unnamed = frame.source in ("array", "bytes", "PIL image")
                yield Frame(frame.image, f"{frame.source} {index}") if unnamed else frame

    return Frames(frames(), total)


def _one(read: Any, name: str) -> Iterator[Frame]:
    yield Frame(read(), name)


def _from_pil(picture: Any) -> Any:
    """Converts a PIL image as :func:`trt_pose.images.pixels.decode` does: applies EXIF, scales 16 bits to 8."""
    from PIL import ImageOps

    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            return (np.asarray(picture) >> 8).astype(np.uint8)
        return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(f"reading a PIL image: {error}. Open it again.") from error


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "trt-pose"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            data = response.read(_LARGEST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise SourceError(f"fetching {url}: {reason}. Check the address and the network.") from error
    if len(data) > _LARGEST_BYTES:
        raise SourceError(f"fetching {url}: more than {_LARGEST_BYTES >> 20} MB. Download it and give the file.")
    return bytes(data)


def _video(source: int | str, name: str) -> Iterator[Frame]:
    _quiet()
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise SourceError(f"opening {name}: OpenCV cannot read it as video. Check the file, address or camera.")
        index = 0
        while True:
            decoded, pixels = capture.read()
            if not decoded:
                break
            yield Frame(np.ascontiguousarray(pixels[:, :, ::-1]).astype(np.uint8, copy=False), f"{name}#{index}")
            index += 1
        if index == 0:
            raise SourceError(f"reading {name}: no frame could be decoded. Check the file or install its codec.")
    finally:
        capture.release()


def _quiet() -> None:
    """Silences the log output of OpenCV and FFmpeg; errors are reported as exceptions."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 5 has the first name only, OpenCV 4 the second.
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else cv2.setLogLevel  # type: ignore[attr-defined]
    set_level(0)


def _frame_count(path: str) -> int | None:
    _quiet()
    capture = cv2.VideoCapture(path)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return count if count > 0 else None


def _suffix(url: str) -> str:
    try:
        return Path(urllib.parse.urlsplit(url).path).suffix.lower()
    except ValueError as error:
        raise SourceError(f"opening {url!r}: not a URL ({error}). Correct the address.") from error
