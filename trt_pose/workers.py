"""Prediction by several processes, each with a model of its own, with results in the order of the sources.

Paths go to the processes and predictions come back. Each process takes every n-th source, so that the order is known
without numbers, and none runs far ahead of the others.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .errors import RunnerError
from .images import pixels
from .images.reading import Unreadable
from .limits import usable_cores
from .predictor import PosePredictor
from .results.detections import Result
from .trt.isolated import call

Found = Result | Unreadable
_AHEAD = 16  # results of a process that wait for their turn
_PATIENCE_S = 0.2


@dataclass(frozen=True)
class Job:
    """What every process does.

    Attributes:
        model: path of an ``.onnx`` file or engine.
        sources: paths and addresses of images and videos, none of them a folder.
        opening: options of :class:`PosePredictor`.
        streaming: options of :meth:`PosePredictor.stream`.
        with_images: results hold their images. Otherwise they hold a black one of its size, which costs nothing.
        max_pixels: largest image to decode; None is Pillow's limit.
    """

    model: str
    sources: Sequence[str]
    opening: Mapping[str, Any] = field(default_factory=dict)
    streaming: Mapping[str, Any] = field(default_factory=dict)
    with_images: bool = False
    max_pixels: int | None = None


def stream(job: Job, workers: int, devices: Sequence[int] = ()) -> Generator[Found, None, None]:
    """Yields the results of a job, in the order of its sources; see :meth:`PosePredictor.stream`.

    Args:
        job: what to do.
        workers: number of processes; no more are started than there are sources.
        devices: GPUs of an engine, which the processes take in turn; empty for an ``.onnx`` file, whose processes share
            the cores.

    Raises:
        RunnerError: a process ended before its work was done.
        PoseError: what :class:`PosePredictor` raises.
    """
    count = min(workers, len(job.sources))
    processes = [_Process(_share(job, index, count, devices), index) for index in range(count)]
    try:
        for index in range(len(job.sources)):
            yield from processes[index % count].next_source()
    finally:
        for process in processes:
            process.stop()
        for process in processes:
            process.thread.join()


def _share(job: Job, index: int, count: int, devices: Sequence[int]) -> Job:
    opening = dict(job.opening)
    if devices:
        opening["device"] = devices[index % len(devices)]
    elif opening.get("threads") is None and job.model.lower().endswith(".onnx"):
        opening["threads"] = max(usable_cores() // count, 1)
    return replace(job, opening=opening, sources=list(job.sources)[index::count])


class _Process:
    """One process, and the thread that takes what it reports."""

    def __init__(self, job: Job, index: int) -> None:
        self._job, self._name = job, f"predicting in process {index + 1}"
        self._found: queue.Queue[tuple[bool, Found] | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._next: tuple[bool, Found] | None = None  # the first result of the next source
        self.thread = threading.Thread(target=self._follow, name=f"trt_pose_worker_{index}", daemon=True)
        self.thread.start()

    def next_source(self) -> Generator[Found, None, None]:
        """Yields the results of one source: one of an image, all of a video or animation."""
        begun = False
        while True:
            reported = self._next or self._take()
            self._next = None
            if reported is None:
                return
            begins, found = reported
            if begins and begun:
                self._next = reported
                return
            begun = True
            yield found
            if isinstance(found, Unreadable) or found.clip is None:
                return

    def _take(self) -> tuple[bool, Found] | None:
        reported = self._found.get()
        if isinstance(reported, BaseException):
            raise reported
        return reported

    def _follow(self) -> None:
        ending: BaseException | None = None
        try:
            call(_work, self._job, doing=self._name, who="the process", error=RunnerError, on_progress=self._put)
        except BaseException as error:  # raised again where the results are taken
            ending = error
        with suppress(_Stopped):
            self._put(ending)

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._found.put(item, timeout=_PATIENCE_S)
                return
        raise _Stopped

    def stop(self) -> None:
        """Lets the process end; it is killed when it next reports a result."""
        self._stopped.set()


class _Stopped(Exception):  # noqa: N818 - no error
    """Ends the thread of a process when its results are no longer taken."""


def _work(job: Job, report: Callable[[tuple[bool, Found]], None]) -> None:
    """Reports each result, with whether it is the first one of its source."""
    if job.max_pixels is not None:
        pixels.allow_pixels(job.max_pixels)
    clip = None
    with PosePredictor(job.model, **job.opening) as predictor:
        for found in predictor.stream(list(job.sources), **job.streaming):
            if isinstance(found, Unreadable):
                report((found.source != clip, found))
                clip = None
                continue
            name = found.clip.name if found.clip else None
            report((name is None or found.index == 0, found if job.with_images else _without_image(found)))
            clip = name


def _without_image(result: Result) -> Result:
    return replace(result, image=_Black(result.image.shape))


class _Black(np.ndarray[Any, np.dtype[np.uint8]]):
    """A black image (H, W, 3) that takes no memory, here or on its way between processes."""

    def __new__(cls, shape: tuple[int, ...]) -> _Black:
        return np.broadcast_to(np.uint8(0), shape).view(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Black, (self.shape,)
