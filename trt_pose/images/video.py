"""Videos, streams and cameras, frame by frame, and annotated videos, by PyAV (FFmpeg's libraries); cameras by OpenCV.

PyAV rather than OpenCV: it gives the time of each frame and the rotation, says which packets are damaged, goes on after
them, and writes H.264 with the sound of the source.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import av.error
import cv2
import numpy as np

from ..errors import SourceError, first_line
from ..files import take_place, temporary_beside
from .pixels import Image

_OPEN_S, _READ_S = 10.0, 30.0
_MOST_CAMERAS = 64
_LONGEST_PAUSE_S = 30.0
# Containers say how many frames they hold; edit lists and the ends of streams account for a few less.
_MISSING_FRAMES, _MISSING_SHARE = 2, 0.01
_PROTOCOLS = "http,https,tls,tcp,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt,crypto,httpproxy"
_CRF = "23"  # libx264's default quality


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame: the image (H, W, 3) uint8 RGB, its number, and its time from the first frame, s if known."""

    image: Image
    index: int
    time_s: float | None


class BrokenVideoError(SourceError):
    """A video that could be read in part, or a stream that broke off; the frames before it were given."""


def read_video(source: str | BinaryIO, name: str) -> Iterator[VideoFrame]:
    """Yields the frames of a video file or stream.

    Damaged frames are left out, and the rest is read.

    Args:
        source: an open file, or the address of a stream.
        name: the name of the source, for messages.

    Raises:
        BrokenVideoError: after the last frame, when frames are missing.
        SourceError: it is no video, or holds no frame.
    """
    with ExitStack() as stack:
        container = stack.enter_context(_open(source, name))
        if not container.streams.video:
            raise SourceError(f"opening {name}: there is no picture in it, only sound or data. Give a video.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise SourceError(f"opening {name}: FFmpeg has no decoder for its pictures. Convert it, or fetch it again.")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"err_detect": "explode"}  # a damaged frame is an error, not a guess
        index, damaged, first = 0, 0, None
        for frame in _decode(container, stream, name):
            if frame is None:
                damaged += 1
                continue
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            time_s = _time_of(frame)
            first = time_s if first is None else first
            time_s = None if time_s is None or first is None else time_s - first
            yield VideoFrame(np.ascontiguousarray(pixels), index, time_s)
            index += 1
        _check_complete(name, stream, index, damaged)


def _time_of(frame: Any) -> float | None:
    """Returns the time of a frame, s; None where the stream has no clock."""
    return None if frame.pts is None or not frame.time_base else float(frame.pts * frame.time_base)


def _open(source: str | BinaryIO, name: str) -> Any:
    # A playlist may name other files and addresses: a file's reaches none of them, and an address's no file.
    options = {"protocol_whitelist": _PROTOCOLS if isinstance(source, str) else "none"}
    if isinstance(source, str) and source.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    try:
        return av.open(source, timeout=(_OPEN_S, _READ_S), options=options)
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(
            f"opening {name}: not an image, and not a video that FFmpeg can read ({_reason(error)}). Check the file or"
            " address."
        ) from error


def _decode(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Yields decoded frames, and None for each packet that could not be decoded."""
    packets = container.demux(stream)
    count = 0
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            for frame in _rest(stream):
                count += 1
                yield frame
            raise BrokenVideoError(f"reading {name}: it broke off after {count} frames ({_reason(error)}).") from error
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            yield None
            continue
        for frame in frames:
            count += not frame.is_corrupt
            yield None if frame.is_corrupt else frame


def _rest(stream: Any) -> list[Any]:
    """Returns the frames that the decoder still holds."""
    with suppress(av.error.FFmpegError, EOFError):
        return list(stream.decode(None))
    return []


def _check_complete(name: str, stream: Any, found: int, damaged: int) -> None:
    if found == 0:
        raise SourceError(f"reading {name}: no frame could be decoded. Check the file.")
    expected = expected_frames(stream) or 0
    missing = expected - found
    if damaged or missing > max(_MISSING_FRAMES, _MISSING_SHARE * expected):
        total = max(expected, found + damaged)
        raise BrokenVideoError(f"reading {name}: {found} of {total} frames could be read; the file is damaged or cut.")


def expected_frames(stream: Any) -> int | None:
    """Returns the number of frames of a video stream by its container; None when it does not say."""
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.average_rate and stream.time_base:
        return int(stream.duration * stream.time_base * stream.average_rate) or None
    return None


def describe_video(source: BinaryIO, name: str) -> tuple[int | None, Fraction | None]:
    """Returns the number of frames and the frame rate of a video file, where its container says them."""
    with _open(source, name) as container:
        if not container.streams.video:
            return None, None
        stream = container.streams.video[0]
        return expected_frames(stream), stream.average_rate


def read_camera(index: int) -> Iterator[VideoFrame]:
    """Yields the frames of a camera until it stops.

    Raises:
        BrokenVideoError: the camera gives no more frames.
        SourceError: there is no such camera.
    """
    if not 0 <= index < _MOST_CAMERAS or not _is_camera(Path(f"/dev/video{index}")):
        raise SourceError(f"opening camera {index}: there is none of that number. See ls /dev/video*.")
    silence_opencv()
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise SourceError(f"opening camera {index}: OpenCV cannot read it. Is another program using it?")
        start = time.monotonic()
        for number in itertools.count():
            decoded, pixels = capture.read()
            if not decoded:
                raise BrokenVideoError(f"reading camera {index}: it stopped after {number} frames.")
            rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            yield VideoFrame(rgb, number, time.monotonic() - start)
    finally:
        capture.release()


def _is_camera(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def reconnect(
    read: Callable[[], Iterator[VideoFrame]], report: Callable[[SourceError], Any], pause_s: float = 1.0
) -> Iterator[VideoFrame]:
    """Yields the frames of a stream or camera, which is opened again whenever it breaks off or ends.

    Args:
        read: opens it.
        report: called with the reason each time.
        pause_s: first pause between attempts, s; it doubles up to 30 s, and begins anew after a frame.
    """
    index, pause, start = 0, pause_s, time.monotonic()
    while True:
        try:
            for frame in read():
                pause = pause_s
                yield VideoFrame(frame.image, index, time.monotonic() - start)
                index += 1
        except SourceError as error:
            report(error)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def silence_opencv() -> None:
    """Silences the log output of OpenCV and FFmpeg; errors are reported as exceptions."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 5 has the first name only, OpenCV 4 the second.
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else cv2.setLogLevel  # type: ignore[attr-defined]
    set_level(0)


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or first_line(error)).rstrip(".")[:120]


class VideoWriter:
    """Writes frames to an H.264 file (``.mp4``, ``.mov``, ``.mkv``); the file appears whole when it is closed.

    Args:
        path: the file to write.
        rate: frames per second.
        sound: the video file whose sound is copied; None for none.

    Raises:
        SourceError: the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction, sound: Path | None = None) -> None:
        self.path, self._rate, self._sound = path, rate, sound
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self.frames = 0

    def write(self, image: Image) -> None:
        """Appends a frame (H, W, 3) uint8 RGB; those of another size than the first are resized to it."""
        try:
            if self._container is None:
                self._begin(image.shape[1], image.shape[0])
            if image.shape[:2] != (self._height, self._width):
                image = cv2.resize(image, (self._width, self._height)).astype(np.uint8, copy=False)
            even = np.ascontiguousarray(image[: self._stream.height, : self._stream.width])
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.discard()
            raise SourceError(f"writing {self.path}: {_reason(error)}. Choose another place or suffix.") from error
        self.frames += 1

    def _begin(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._temporary = self._stack.enter_context(temporary_beside(self.path))
        self._container = av.open(str(self._temporary), "w")
        self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": _CRF})
        self._stream.width, self._stream.height = max(width // 2 * 2, 2), max(height // 2 * 2, 2)
        self._stream.pix_fmt = "yuv420p"

    def close(self) -> Path | None:
        """Finishes the file and returns its path; None when no frame was written."""
        if self._container is None:
            return None
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            if self._sound is not None:
                with suppress(av.error.FFmpegError, OSError, ValueError):  # a sound that the container does not take
                    self._add_sound(self._sound)
            take_place(self._temporary, self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise SourceError(f"writing {self.path}: {_reason(error)}. Choose a place with room.") from error
        self._container = None
        self._stack.close()
        return self.path

    def discard(self) -> None:
        """Drops what was written."""
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                self._container.close()
            self._container = None
        self._stack.close()

    def _add_sound(self, source: Path) -> None:
        """Copies the first sound track of ``source`` into the video, without encoding either anew."""
        with temporary_beside(self.path) as joined:
            if _join(self._temporary, source, joined):
                joined.replace(self._temporary)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


def _join(video: Path, source: Path, joined: Path) -> bool:
    """Writes the pictures of ``video`` and the sound of ``source`` to ``joined``; False where there is no sound."""
    with av.open(str(video)) as pictures, av.open(str(source)) as other, av.open(str(joined), "w") as output:
        if not other.streams.audio:
            return False
        pairs = [(pictures, pictures.streams.video[0]), (other, other.streams.audio[0])]
        outputs = [output.add_stream_from_template(stream) for _, stream in pairs]
        for (container, stream), target in zip(pairs, outputs, strict=True):
            for packet in container.demux(stream):
                if packet.dts is not None:
                    packet.stream = target
                    output.mux(packet)
    return True
