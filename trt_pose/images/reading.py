"""Frames of a source, sources that could not be read, and how sources are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..errors import SourceError, UnreadableWarning
from .pixels import Image


@dataclass(frozen=True)
class Clip:
    """The video, animation or stream that a frame belongs to.

    Attributes:
        name: its path, address or camera.
        rate: frames per second; None when unknown.
        file: its file, if it is one.
    """

    name: str
    rate: Fraction | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Frame:
    """One decoded image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        source: path or name of the image, with ``#`` and the frame number for videos.
        index: number of the frame in its video, from 0; None for images.
        time_s: its time from the first frame, s; None when unknown.
        clip: the video it belongs to; None for images.
    """

    image: Image
    source: str
    index: int | None = None
    time_s: float | None = None
    clip: Clip | None = None


@dataclass(frozen=True)
class Unreadable:
    """A source that could not be read, or not to its end.

    Attributes:
        source: path or name of the source.
        error: the reason.
    """

    source: str
    error: SourceError

    def to_dict(self) -> dict[str, str]:
        return {"source": self.source, "error": str(self.error)}


Item = Frame | Unreadable


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        strict: raise the error of a source that cannot be read; else :class:`Unreadable` takes its place.
        recursive: look for images in the folders of a folder, too.
        stride: take each n-th frame of a video.
        reconnect: open streams and cameras again when they break off.
        videos: accept videos within a list.
        ahead: number of images that threads decode ahead; 0 for none. Streams, cameras and generators are never read
            ahead: their next image may be a while in coming.
    """

    strict: bool = True
    recursive: bool = False
    stride: int = 1
    reconnect: bool = False
    videos: bool = True
    ahead: int = 4


class Frames:
    """The frames of a source, decoded one at a time while iterating.

    Attributes:
        total: number of frames; None when it is unknown.
        single: True when the source is one image.
        video: True when the source is a video, stream or camera, which may be endless.
        live: True when its next image may be a while in coming, so that none is asked for before it is wanted: streams,
            cameras and generators.
    """

    def __init__(
        self,
        items: Iterator[Item],
        total: int | None,
        *,
        single: bool = False,
        video: bool = False,
        live: bool = False,
    ) -> None:
        self._items, self.total, self.single, self.video, self.live = items, total, single, video, live

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def images(self) -> Iterator[Frame]:
        """Yields the frames; warns about each source that cannot be read, and at the end of their number.

        Warns:
            UnreadableWarning: a source could not be read.
        """
        found = lost = 0
        for item in self._items:
            if isinstance(item, Unreadable):
                lost += 1
                warnings.warn(str(item.error), UnreadableWarning, stacklevel=2)
            else:
                found += 1
                yield item
        if lost:
            warnings.warn(
                f"{lost} of {found + lost} images could not be read; the rest was used.",
                UnreadableWarning,
                stacklevel=2,
            )
