"""Image sources: files, folders, globs, URLs, bytes, arrays, PIL images, videos, cameras, and lists of these.

What a source is, its content says: the first bytes of a file, the Content-Type of an address, the decoders.
"""

from __future__ import annotations

import glob
import http.client
import io
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import printable
from ..errors import SourceError, first_line
from .ahead import map_ahead, prefetch
from .pixels import Image, as_rgb, count_pictures, decode, decode_all, from_pil
from .reading import Clip, Frame, Frames, Item, Reading, Unreadable
from .video import VideoFrame, describe_video, read_camera, read_video, reconnect

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"))
_STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://", "srt://", "rtp://")
_URL_SCHEMES = ("http://", "https://")
_TIMEOUT_S, _LARGEST_BYTES, _HEAD_BYTES = 30, 200 << 20, 64
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0")
# The first bytes of image files; WebP and AVIF have theirs after a length.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_STREAMED = (
    "video/", "audio/", "multipart/", "application/vnd.apple.mpegurl", "application/x-mpegurl", "application/ogg",
)  # fmt: skip


def open_source(source: Any, reading: Reading | None = None) -> Frames:
    """Opens any source that ``predict`` accepts.

    Args:
        source: path of an image, video, folder or list of paths (``.txt``); glob pattern; http(s), rtsp URL; ``-`` for
            standard input; bytes of an image or video file; uint8 array (H, W[, 1 | 3 | 4]) RGB or (B, H, W, 3); PIL
            image; camera index; or an iterable of these.
        reading: how it is read; None reads strictly.

    Raises:
        SourceError: the source does not exist, is empty, or is of an unknown kind. Decoding errors are raised while
            iterating.
    """
    reading = reading or Reading()
    if isinstance(source, (str, Path)):
        return _open_text(str(source), reading)
    if isinstance(source, bool):
        raise SourceError(f"opening a source: got {source!r}, expected an image, a path or a list. Check the argument.")
    if isinstance(source, (int, np.integer)):
        return _open_camera(int(source), reading)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_bytes(bytes(source), "bytes", reading)
    if isinstance(source, np.ndarray):
        if source.ndim == 4:
            return open_source(list(source), reading)
        return _single(lambda: as_rgb(source), "array", reading)
    if hasattr(source, "read"):  # an open file
        return open_source(source.read(), reading)
    if hasattr(source, "convert") and hasattr(source, "getbands"):  # a PIL image
        return _single(lambda: _read_pil(source), "PIL image", reading)
    if hasattr(source, "__array__"):  # a tensor
        return open_source(np.asarray(source), reading)
    if isinstance(source, Iterable):
        return _open_many(source, reading)
    raise SourceError(
        f"opening a source: got {type(source).__name__}, expected a path, URL, bytes, uint8 array, PIL image,"
        " camera index or a list of these. Convert it."
    )


def _open_text(text: str, reading: Reading) -> Frames:
    if not text.strip():
        raise SourceError("opening a source: got an empty name, expected a path or address. Is a variable not set?")
    if "\0" in text:
        raise SourceError(f"opening {text!r}: a name cannot hold a zero byte. Check the path.")
    if text.startswith(_STREAM_SCHEMES):
        return _open_stream(text, reading)
    if text.startswith(_URL_SCHEMES):
        return _open_url(text, reading)
    if text in STANDARD_INPUT:
        return _open_bytes(sys.stdin.buffer.read(_LARGEST_BYTES), "standard input", reading)
    try:
        return _open_path(Path(text), text, reading)
    except OSError as error:  # the name is too long, or the folder cannot be read
        raise SourceError(f"opening {text!r}: {error.strerror or error}. Check the path.") from error


def find_images(text: str, recursive: bool = False) -> list[Path] | None:
    """Returns the image files of a folder or glob, sorted; None when ``text`` is neither.

    A file is an image by its first bytes, or by its suffix, so that a damaged one is not passed over.

    Raises:
        SourceError: the folder or glob contains no images.
    """
    path = Path(text)
    if path.is_dir():
        paths = sorted(path.rglob("*") if recursive else path.iterdir())
        paths = [item for item in paths if not item.name.startswith(".")]  # temporary files, and those of editors
    elif not path.exists() and glob.has_magic(text):
        paths = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - for absolute globs
    else:
        return None
    paths = [item for item in paths if item.is_file() and (item.suffix.lower() in IMAGE_SUFFIXES or _holds_image(item))]
    if not paths:
        deeper = "" if recursive or not path.is_dir() else " Folders within it are read with --recursive."
        raise SourceError(f"opening {text!r}: no images in it. Check the path.{deeper}")
    return paths


def list_sources(sources: Iterable[str], recursive: bool = False) -> list[str]:
    """Returns the images and videos of sources: folders, globs and lists of paths are replaced by what they hold.

    Raises:
        SourceError: a folder, glob or list holds nothing, or cannot be read.
    """
    found: list[str] = []
    for text in sources:
        path = Path(text)
        try:
            images = find_images(text, recursive)
            if images is not None:
                found += map(str, images)
            elif path.suffix.lower() == ".txt" and path.is_file() and not _holds_image(path):
                found += list_sources(_listed(path), recursive)
            else:
                found.append(text)
        except (OSError, ValueError) as error:
            raise SourceError(f"opening {text!r}: {first_line(error)}. Check the path.") from error
    return found


def _holds_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_image(file.read(_HEAD_BYTES))
    except OSError:
        return False


def is_image(head: bytes) -> bool:
    """Returns whether a file that begins with these bytes is an image."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_MAGIC) or webp or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)


def _open_path(path: Path, text: str, reading: Reading) -> Frames:
    files = find_images(text, reading.recursive)
    if files is not None:
        return Frames(_each(files, reading), len(files))
    if not path.exists():
        raise SourceError(f"opening {text!r}: there is no such file, folder or URL. Check the path.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise SourceError(
            f"opening {text!r}: it is a pipe or device, not a file. Give a file, or - for standard input."
        )
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix.lower() == ".txt" and not is_image(head):
        return _open_many(_listed(path), reading)
    if is_image(head) or not head or path.suffix.lower() in IMAGE_SUFFIXES:
        return _open_bytes(path.read_bytes(), text, reading, path)
    with path.open("rb") as file:
        total, rate = describe_video(file, text)
    clip = Clip(text, rate, path)
    return _clip(clip, lambda: _read_file(path, text, reading.ahead), reading, total)


def _read_file(path: Path, name: str, ahead: int) -> Iterator[VideoFrame]:
    """Reads a video through an open file, so that its name never reaches native code."""
    with path.open("rb") as file:
        frames = read_video(file, name)
        yield from prefetch(frames, ahead) if ahead else frames


def _listed(path: Path) -> list[str]:
    """Returns the paths that a text file lists, one a line; relative ones are meant from its folder."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise SourceError(f"opening {str(path)!r}: it lists no paths, expected one a line. Check the file.")
    known = (*_URL_SCHEMES, *_STREAM_SCHEMES)
    return [name if name.startswith(known) else str(path.parent / name) for name in names]


def _open_bytes(data: bytes, name: str, reading: Reading, path: Path | None = None) -> Frames:
    pictures = count_pictures(data)
    if pictures > 1:
        clip = Clip(name, None, path)
        return Frames(_guard(name, lambda: _pages(data, name, clip, reading), reading), pictures)
    if pictures == 1 or not data or is_image(data[:_HEAD_BYTES]) or path is not None:
        return _single(lambda: decode(data, name), name, reading)
    return _clip(Clip(name), lambda: read_video(io.BytesIO(data), name), reading)


def _pages(data: bytes, name: str, clip: Clip, reading: Reading) -> Iterator[Frame]:
    for index, (image, time_s) in enumerate(decode_all(data, name)):
        if index % reading.stride == 0:
            yield Frame(image, f"{name}#{index}", index, time_s, clip)


def _open_many(sources: Iterable[Any], reading: Reading) -> Frames:
    """Opens each item when it is reached. Raises SourceError for an empty list; a generator cannot be checked."""
    total = len(sources) if isinstance(sources, (list, tuple)) else None
    if total == 0:
        raise SourceError("opening a source: got an empty list, expected at least one image. Check what filled it.")
    return Frames(_each(sources, reading), total, live=total is None)


def _each(sources: Iterable[Any], reading: Reading) -> Iterator[Item]:
    def load(numbered: tuple[int, Any]) -> Iterable[Item]:
        return _load(*numbered, reading)

    # The next item of a generator is not asked for before the last one is used: it may be a live feed.
    if reading.ahead and isinstance(sources, (list, tuple)):
        loaded: Iterator[Iterable[Item]] = map_ahead(load, enumerate(sources), reading.ahead)
    else:
        loaded = map(load, enumerate(sources))
    for items in loaded:
        yield from items


def _load(index: int, item: Any, reading: Reading) -> Iterable[Item]:
    """Opens one source of a list, and decodes it if it is an image; videos are decoded when it is their turn."""
    name = str(item) if isinstance(item, (str, Path)) else f"source {index}"
    try:
        opened = open_source(item, reading)
        if opened.video and not reading.videos:
            raise SourceError(f"opening a list: {item!r} is a video or camera. Give it to stream().")
    except (SourceError, OSError) as error:
        return _failed(name, error, reading)
    found = (_numbered(frame, index) for frame in _guard(name, lambda: iter(opened), reading))
    return list(found) if opened.single else found


def _numbered(item: Item, index: int) -> Item:
    """Adds its number to the name of what has none of its own."""
    if isinstance(item, Frame) and item.source in ("array", "bytes", "PIL image"):
        return Frame(item.image, f"{item.source} {index}")
    return item


def _guard(name: str, items: Callable[[], Iterator[Any]], reading: Reading) -> Iterator[Item]:
    """Yields items; the error of a source that is not read strictly becomes the last of them."""
    try:
        yield from items()
    except (SourceError, OSError) as error:
        yield from _failed(name, error, reading)


def _failed(name: str, error: SourceError | OSError, reading: Reading) -> list[Item]:
    """Returns what takes the place of a source that cannot be read; raises its error in a strict reading."""
    if isinstance(error, SourceError):
        problem = error
    else:
        problem = SourceError(f"reading {name}: {error.strerror or error}. Check the path.")
        problem.__cause__ = error
    if reading.strict:
        raise problem
    return [Unreadable(name, problem)]


def _single(read: Callable[[], Image], name: str, reading: Reading) -> Frames:
    return Frames(_guard(name, lambda: iter([Frame(read(), name)]), reading), 1, single=True)


def _open_camera(index: int, reading: Reading) -> Frames:
    name = f"camera {index}"
    return _live(name, lambda: read_camera(index), reading)


def _open_stream(address: str, reading: Reading) -> Frames:
    return _live(address, lambda: read_video(address, address), reading)


def _live(name: str, read: Callable[[], Iterator[VideoFrame]], reading: Reading) -> Frames:
    """The frames of a stream or camera, which is opened again when it breaks off, if that is asked for."""
    return _clip(Clip(name), (lambda: reconnect(read, _say)) if reading.reconnect else read, reading, live=True)


def _clip(
    clip: Clip,
    read: Callable[[], Iterator[VideoFrame]],
    reading: Reading,
    total: int | None = None,
    *,
    live: bool = False,
) -> Frames:
    return Frames(_guard(clip.name, lambda: _frames_of(read, clip, reading), reading), total, video=True, live=live)


def _say(error: SourceError) -> None:
    sys.stderr.write(f"{printable(error, lines=False)} Connecting again.\n")


def _frames_of(read: Callable[[], Iterator[VideoFrame]], clip: Clip, reading: Reading) -> Iterator[Frame]:
    with closing(read()) as frames:  # type: ignore[type-var]
        for frame in frames:
            if frame.index % reading.stride == 0:
                yield Frame(frame.image, f"{clip.name}#{frame.index}", frame.index, frame.time_s, clip)


def _read_pil(picture: Any) -> Image:
    try:
        return as_rgb(from_pil(picture), "PIL image")
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(f"reading a PIL image: {error}. Open it again.") from error


def _open_url(url: str, reading: Reading) -> Frames:
    """Opens an address by what its answer says it is."""
    kind, data = _fetch(url)
    if data is None:
        return _open_stream(url, reading)
    if not is_image(data[:_HEAD_BYTES]) and not kind.startswith("image/") and kind.startswith("text/"):
        raise SourceError(f"opening {url}: the server sent {kind}, not an image. Check the address.")
    return _open_bytes(data, url, reading)


def _fetch(url: str) -> tuple[str, bytes | None]:
    """Returns the Content-Type of an address and its content; None for a video or stream."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "trt-pose"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            kind = response.headers.get_content_type()
            if kind.startswith(_STREAMED):
                return kind, None
            head = response.read(_HEAD_BYTES)
            if not is_image(head) and not kind.startswith(("image/", "text/")):
                return kind, None  # FFmpeg finds out
            data = head + response.read(_LARGEST_BYTES + 1 - len(head))
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        what = "not a URL" if isinstance(error, ValueError) else "Check the address and the network"
        raise SourceError(f"fetching {url}: {reason}. {what}.") from error
    if len(data) > _LARGEST_BYTES:
        raise SourceError(f"fetching {url}: more than {_LARGEST_BYTES >> 20} MB. Download it and give the file.")
    return kind, data
