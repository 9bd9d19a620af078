"""Prediction: decodes images, letterboxes them, runs the model and reads poses or objects from its outputs."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from .choices import either
from .errors import RunnerError, SourceError, UsageError
from .formats import find_format
from .images.ahead import map_ahead
from .images.pixels import Image, letterbox
from .images.reading import Frame, Frames, Item, Reading, Unreadable
from .images.sources import open_source
from .progress import track as show_progress
from .results import predictions_of
from .results.detections import Result
from .runtime import Runner, open_runner
from .runtime.runner import Arrays, ImageRunner, Pipeline, ThroughputRunner
from .spec import InputSpec, Letterbox, ModelSpec

_ON_ERROR = ("raise", "skip", "yield")
_FEW_BATCHES = 16  # for more, a second runner is opened that runs several at once


def place(images: Sequence[Image], spec: InputSpec) -> tuple[npt.NDArray[Any], list[Letterbox]]:
    """Letterboxes images into one network input.

    Args:
        images: (H, W, 3) uint8 RGB each; at most ``spec.batch`` of them when the batch is fixed.
        spec: the input description of the model file.

    Returns:
        The input (B, 3, H, W) in the file's element type, a fixed batch padded with ``spec.pad_value``, and the
        letterbox of each image.
    """
    placed = [letterbox(image, spec) for image in images]
    pixels = np.stack([pixels for pixels, _ in placed]).astype(spec.dtype, copy=False)
    if spec.white != 255:
        pixels = pixels * pixels.dtype.type(spec.white / 255)
    if spec.batch is not None and len(images) < spec.batch:  # pad an incomplete fixed batch
        rest = np.full((spec.batch - len(images), *pixels.shape[1:]), spec.pad_value, pixels.dtype)
        pixels = np.concatenate([pixels, rest])
    return pixels, [box for _, box in placed]


class PosePredictor:
    """Finds people in images with a pose model, or objects with a detection model.

    Args:
        model: path of an ``.onnx`` file or engine, or an open Runner (closed with the predictor).
        confidence: keep scores above it; at least the threshold in the file. None uses the file's threshold.
        conf: short for ``confidence``.
        providers: see :func:`trt_pose.open_runner`, as the following.
        threads: number of threads for an ``.onnx`` file.
        precision: ``fp32``, or ``bf16`` with OpenVINO.
        device: index of the GPU of an engine.
        library: plugin library of an engine.
        weights: the ONNX file that an engine built with ``--stripWeights`` is filled from; None looks beside it.
        cuda_graph: launch an engine as a CUDA graph.
        spin_wait: poll for the end of a run of an engine.

    A predictor may be used from several threads.

    Raises:
        RunnerError: the file cannot be opened, does not end in final predictions, or takes normalized input.
        UsageError: ``confidence`` is below the file's threshold, an option does not apply to this kind of file, or
            options are given with an open Runner.
    """

    def __init__(
        self,
        model: str | Path | Runner,
        *,
        confidence: float | None = None,
        conf: float | None = None,
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        precision: str | None = None,
        device: int | None = None,
        library: str | Path | None = None,
        weights: str | Path | None = None,
        cuda_graph: bool | None = None,
        spin_wait: bool | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "providers": providers, "threads": threads, "precision": precision, "device": device, "library": library,
            "weights": weights, "cuda_graph": cuda_graph, "spin_wait": spin_wait,
        }  # fmt: skip
        confidence = either("confidence", confidence, "conf", conf)
        given = [name for name, value in options.items() if value is not None]
        if isinstance(model, Runner) and given:
            raise UsageError(f"opening a predictor: {', '.join(given)} belong to opening a file. Leave them out.")
        self._runner = model if isinstance(model, Runner) else open_runner(model, **options)
        try:
            self.spec: ModelSpec = self._runner.spec
            self._confidence = _check(self.spec, confidence)
            runner = self._runner
            self._pipeline: Pipeline | None = runner.pipeline() if isinstance(runner, ImageRunner) else None
        except BaseException:
            self._runner.close()
            raise
        self._preparing = threading.Lock()
        self._throughput: tuple[Runner, int] | None = None
        if self.spec.calibrated_on_noise:
            warnings.warn(
                f"{self.spec.model} was calibrated on noise, not on images: what it finds may be wrong. Quantize it"
                " again on images like those it will see.",
                stacklevel=2,
            )

    @property
    def runtime(self) -> str:
        """Name and version of what runs the model."""
        return self._runner.runtime

    def predict(self, source: Any, *, batch_size: int | None = None) -> Result | list[Result]:
        """Returns one result for one image, or a list of results for a list, folder or glob.

        Args:
            source: see :func:`trt_pose.images.sources.open_source`.
            batch_size: images per run of a file with a symbolic batch; 1 when None.

        Raises:
            SourceError: the source cannot be read, or is a video or camera (use :meth:`stream`).
        """
        frames = open_source(source, Reading(videos=False))
        if frames.video:
            raise SourceError(
                "predicting: a video or camera would be kept in memory whole."
                " Use stream(source), which gives one result at a time."
            )
        results = cast("list[Result]", list(self._results(frames, batch_size)))
        return results[0] if frames.single else results

    __call__ = predict

    @overload
    def stream(
        self,
        source: Any,
        *,
        batch_size: int | None = ...,
        progress: bool = ...,
        on_error: Literal["raise", "skip"] = ...,
        recursive: bool = ...,
        vid_stride: int = ...,
        reconnect: bool = ...,
        track: bool | str = ...,
    ) -> Iterator[Result]: ...

    @overload
    def stream(
        self,
        source: Any,
        *,
        batch_size: int | None = ...,
        progress: bool = ...,
        on_error: str,
        recursive: bool = ...,
        vid_stride: int = ...,
        reconnect: bool = ...,
        track: bool | str = ...,
    ) -> Iterator[Result | Unreadable]: ...

    def stream(
        self,
        source: Any,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: str = "raise",
        recursive: bool = False,
        vid_stride: int = 1,
        reconnect: bool = False,
        track: bool | str = False,
    ) -> Iterator[Any]:
        """Yields results one at a time, for sources of any length; memory use stays constant.

        Args:
            source: see :func:`trt_pose.images.sources.open_source`.
            batch_size: images per run of a file with a symbolic batch; 1 when None.
            progress: show a progress bar on standard error when it is a terminal.
            on_error: what to do with a source that cannot be read, or not to its end: ``raise`` its SourceError;
                ``skip`` it with a warning; or ``yield`` an ``Unreadable`` in its place.
            recursive: look for images in the folders of a folder, too.
            vid_stride: take each n-th frame of a video.
            reconnect: open streams and cameras again when they break off.
            track: follow people or objects from frame to frame: True, or ``bytetrack``, ``ocsort`` or ``sort``. The
                predictions of the results have ``ids``.

        Raises:
            UsageError: an argument is out of range.
            MissingDependencyError: trackers is not installed.
        """
        if on_error not in _ON_ERROR:
            raise UsageError(f"on_error: got {on_error!r}, expected one of {', '.join(_ON_ERROR)}.")
        if vid_stride < 1:
            raise UsageError(f"vid_stride: got {vid_stride}, expected 1 or more.")
        ahead = max(Reading.ahead, 2 * self._batch_size(batch_size))
        frames = open_source(source, Reading(on_error == "raise", recursive, vid_stride, reconnect, ahead=ahead))
        results = self._results(frames, batch_size)
        if track:
            from .results.tracking import Tracks

            results = Tracks("bytetrack" if track is True else track, self._confidence).follow(results)
        if on_error == "skip":
            results = _warned(results)
        return show_progress(results, "predicting", frames.total) if progress else results

    def _results(self, frames: Frames, batch_size: int | None) -> Iterator[Result | Unreadable]:
        size = self._batch_size(batch_size)
        batches = _groups(iter(frames), size)
        if self._pipeline is not None:
            return self._run_ahead(self._pipeline, batches)
        runs = 1
        if not frames.live and (frames.total is None or frames.total > _FEW_BATCHES * size):
            runs = self._prepare_throughput()
        done = map(self._run, batches) if runs == 1 else map_ahead(self._run_beside, batches, runs, runs)
        return (item for found in done for item in found)

    def _prepare_throughput(self) -> int:
        """Opens a runner for many images, the first time; returns how many batches it runs at once."""
        with self._preparing:
            if self._throughput is None and isinstance(self._runner, ThroughputRunner):
                self._throughput = self._runner.for_throughput()
            return self._throughput[1] if self._throughput else 1

    def _run_ahead(self, pipeline: Pipeline, batches: Iterator[_Batch]) -> Iterator[Result | Unreadable]:
        """Runs batches on a GPU: the next batch is decoded and uploaded while the current one runs."""
        waiting: tuple[_Batch, Any] | None = None
        try:
            for batch in itertools.chain(batches, (None,)):
                begun = time.perf_counter()
                pending = None
                if batch is not None and batch.frames:
                    pending = pipeline.submit([frame.image for frame in batch.frames], self._confidence)
                    batch.took("submit", begun)
                done, waiting = waiting, None if batch is None else (batch, pending)
                if done is not None:
                    yield from self._read_rows(pipeline, *done)
        finally:
            if waiting is not None and waiting[1] is not None:  # the caller stopped, or a frame could not be read
                pipeline.collect(waiting[1])

    def _read_rows(self, pipeline: Pipeline, batch: _Batch, pending: Any) -> Iterator[Result | Unreadable]:
        predictions = predictions_of(self.spec.task)
        if pending is not None:
            begun = time.perf_counter()
            rows = pipeline.collect(pending)
            batch.took("wait", begun)
            for frame, kept in zip(batch.frames, rows, strict=True):
                yield _result(predictions.from_rows(kept, self.spec), frame, batch.speed)
        yield from batch.failures

    def _run(self, batch: _Batch) -> list[Result | Unreadable]:
        """Letterboxes, runs and reads one batch of images; returns results, then the sources that could not be read."""
        return self._run_by(self._runner, batch)

    def _run_beside(self, batch: _Batch) -> list[Result | Unreadable]:
        """:meth:`_run`, in one of several threads."""
        return self._run_by(self._throughput[0] if self._throughput else self._runner, batch)

    def _run_by(self, runner: Runner, batch: _Batch) -> list[Result | Unreadable]:
        if not batch.frames:
            return [*batch.failures]
        begun = time.perf_counter()
        pixels, placed = place([frame.image for frame in batch.frames], self.spec.input)
        begun = batch.took("letterbox", begun)
        outputs = runner.run({self.spec.input.name: pixels})
        begun = batch.took("run", begun)
        results = self.read(outputs, batch.frames, placed)
        batch.took("read", begun)
        return [*(replace(result, speed=batch.speed) for result in results), *batch.failures]

    def read(self, outputs: Arrays, frames: Sequence[Frame], placed: Sequence[Letterbox]) -> list[Result]:
        """Returns the results of a batch.

        Args:
            outputs: the arrays the runner returned, by output name.
            frames: the images of the batch.
            placed: the letterbox of each image.
        """
        predictions = predictions_of(self.spec.task)
        return [
            _result(predictions.from_outputs(outputs, self.spec, index, box, self._confidence), frame)
            for index, (frame, box) in enumerate(zip(frames, placed, strict=True))
        ]

    def _batch_size(self, asked: int | None) -> int:
        fixed = self.spec.input.batch
        if asked is None:
            return fixed or 1
        if asked < 1 or (fixed is not None and asked != fixed):
            expected = "1 or more" if fixed is None else str(fixed)
            raise UsageError(f"predicting: got batch_size={asked}, expected {expected}. Leave it out or correct it.")
        return asked

    def close(self) -> None:
        self._runner.close()
        if self._throughput is not None:
            self._throughput[0].close()

    def __enter__(self) -> PosePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@dataclass
class _Batch:
    """Images that run together, and the sources that could not be read after them.

    Attributes:
        frames: the images.
        failures: sources that could not be read.
        speed: time of each step so far, ms per image.
    """

    frames: list[Frame]
    failures: list[Unreadable] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)

    def took(self, step: str, begun: float) -> float:
        """Adds the time since ``begun``, by ``time.perf_counter``; returns the time now."""
        now = time.perf_counter()
        self.speed[step] = (now - begun) * 1e3 / max(len(self.frames), 1)
        return now


def _groups(items: Iterator[Item], size: int) -> Iterator[_Batch]:
    """Yields images in batches of ``size``; the last batch, and one before a failure, may be smaller."""
    batch, begun = _Batch([]), time.perf_counter()
    for item in items:
        if isinstance(item, Unreadable):
            batch.failures.append(item)
        else:
            batch.frames.append(item)
        if batch.failures or len(batch.frames) == size:
            batch.took("decode", begun)
            yield batch
            batch, begun = _Batch([]), time.perf_counter()
    if batch.frames:
        batch.took("decode", begun)
        yield batch


def _result(predictions: Any, frame: Frame, speed: Mapping[str, float] | None = None) -> Result:
    made = predictions.result(frame.image, frame.source)
    return cast("Result", replace(made, index=frame.index, time_s=frame.time_s, clip=frame.clip, speed=speed or {}))


def _warned(items: Iterator[Result | Unreadable]) -> Iterator[Result]:
    for item in items:
        if isinstance(item, Unreadable):
            warnings.warn(str(item.error), stacklevel=3)
        else:
            yield item


def _check(spec: ModelSpec, confidence: float | None) -> float:
    """Checks the file and the threshold; returns the threshold to apply, 0 when only the file's applies."""
    if not find_format(spec).finished:
        raise RunnerError(
            f"opening {spec.model}: its outputs are in {spec.output.format} format, not finished predictions."
            " Export it with postprocessing=True."
        )
    if not spec.input.normalized_in_graph:
        raise RunnerError(
            f"opening {spec.model}: it takes normalized input, not images. Export it with preprocessing=True."
        )
    if confidence is None:
        return 0.0
    least = spec.output.confidence_threshold or 0.0
    if not least <= confidence <= 1.0:
        raise UsageError(
            f"predicting: got confidence={confidence:g}, expected {least:g} (the file's own) to 1."
            " Export the model again with a lower threshold."
        )
    return confidence
