"""Pipeline of letterbox, engine and packing on the GPU, for two batches at a time.

The host only copies images in and rows out. While a batch runs on the GPU, the host decodes and uploads the next one.
Only the kept rows are copied back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..formats import Floats
from ..gpu.device import address_of, copy
from ..gpu.frames import (
    BLOCK_THREADS,
    FRAME,
    MAX_BATCH,
    PackParams,
    fill_frames,
    kernel_source,
    letterbox_grid,
    letterbox_params,
)  # fmt: skip
from ..gpu.kernels import Kernel
from ..images.pixels import Image
from ..tasks import find_task
from .trt import TrtRunner

# Rows per image that are copied together with the counts; more rows need a second copy.
_ROWS_AT_ONCE = 32


class BatchBuffers:
    """Buffers of one batch: frames and their images as input, packed rows as output."""

    def __init__(self, runner: TrtRunner, row_bytes: int, rows: int) -> None:
        device, batch = runner.device, runner.largest_batch
        self.runner = runner
        self.rows_at = 4 * batch  # the counts come first
        size = self.rows_at + rows * row_bytes
        self.packed, self.packed_host = device.memory(size), runner.own(device.pinned(size))
        self.uploaded, self.done = (runner.own(device.event(timed=False)) for _ in range(2))
        self.images, self.images_host = device.memory(1 << 20), runner.own(device.pinned(1 << 20))

    def reserve(self, size: int) -> None:
        """Makes room for ``size`` bytes of frames and images; a buffer that grows at least doubles."""
        if size > self.images.size:
            size = max(size, 2 * self.images.size)
            self.images_host.close()
            self.images = self.runner.device.memory(size)
            self.images_host = self.runner.own(self.runner.device.pinned(size))


@dataclass(frozen=True)
class PendingBatch:
    """A submitted batch.

    Attributes:
        buffers: the buffers of the batch.
        images: number of images.
    """

    buffers: BatchBuffers
    images: int


class Pipeline:
    """Pipeline that runs batches of images on an engine; created by :func:`open_pipeline`."""

    def __init__(self, runner: TrtRunner) -> None:
        self._runner, self._spec = runner, runner.spec
        self._width = 5 + find_task(self._spec.task).extra_width(self._spec.skeleton.num_joints)
        self._limit = runner.tensors["pred_scores"].largest[1]
        with runner.device.current(f"opening {runner.path}"):
            self._uploads = runner.own(runner.device.stream())
            self._fetches = runner.own(runner.device.stream())
        runner.streams += [self._uploads, self._fetches]
        self._letterbox, self._pack = (Kernel(kernel_source(), name) for name in ("letterbox", "pack_rows"))
        self._free: list[BatchBuffers] = []
        self._closed = False
        self._lock = threading.Lock()
        runner.own(self)

    def submit(self, images: Sequence[Image], threshold: float) -> PendingBatch:
        """Starts a batch and returns at once.

        Args:
            images: (H, W, 3) uint8 RGB, at most the engine's largest batch.
            threshold: rows with a higher score are returned.

        Raises:
            RunnerError: more images than the engine takes, the runner is closed, or TensorRT failed.
        """
        runner = self._runner
        with runner.lock, runner.device.current(f"running {runner.path}"):
            runner.check_open()
            runner.check_batch(len(images))
            buffers = self._take_buffers()
            try:
                self._enqueue(buffers, images, threshold)
            except BaseException:
                for stream in runner.streams:  # pending work must not write to released buffers
                    stream.sync()
                self.release(PendingBatch(buffers, 0))
                raise
        return PendingBatch(buffers, len(images))

    def _enqueue(self, buffers: BatchBuffers, images: Sequence[Image], threshold: float) -> None:
        """Enqueues upload, letterbox, engine, packing and download on their streams, without waiting."""
        runner, spec = self._runner, self._spec.input
        target = runner.tensors[spec.name]
        runner.set_shapes({spec.name: (spec.batch or len(images), *target.largest[1:])})
        size = self._pack_images(buffers, images)
        copy(buffers.images_host.buffer, buffers.images, size, self._uploads)
        self._uploads.record(buffers.uploaded)
        runner.stream.wait(buffers.uploaded)
        stream = address_of(runner.stream)
        params = letterbox_params(address_of(buffers.images), address_of(target.memory), spec)
        self._letterbox.launch(letterbox_grid(len(images), spec), BLOCK_THREADS, params, stream)
        runner.enqueue()
        self._pack.launch((1, 1), BLOCK_THREADS, self._pack_params(buffers, len(images), threshold), stream)
        first = self._first_bytes(buffers, len(images))
        copy(buffers.packed, buffers.packed_host.buffer, first, runner.stream)
        runner.stream.record(buffers.done)

    def _pack_images(self, buffers: BatchBuffers, images: Sequence[Image]) -> int:
        """Copies the frames and then the images into the host buffer; returns the number of bytes to upload."""
        starts = np.cumsum([FRAME.itemsize * len(images), *(image.nbytes for image in images)]).tolist()
        buffers.reserve(starts[-1])
        for image, start in zip(images, starts[:-1], strict=True):
            buffers.images_host.array[start : start + image.nbytes] = image.reshape(-1)
        frames = buffers.images_host.view((len(images),), FRAME)
        sources = [address_of(buffers.images) + start for start in starts[:-1]]
        fill_frames(frames, [image.shape for image in images], sources, self._spec.input)
        return int(starts[-1])

    def collect(self, pending: PendingBatch) -> list[Floats]:
        """Waits for a batch; returns rows (K, 5 + 3J) or (K, 6) per image, in image px; see ``Poses.from_rows``."""
        buffers, runner = pending.buffers, self._runner
        try:
            with runner.device.current(f"running {runner.path}"):
                with runner.lock:
                    runner.check_open()
                buffers.done.sync()
                with runner.lock:
                    runner.check_open()
                    kept = buffers.packed_host.view((pending.images,), np.int32).copy()
                    size = buffers.rows_at + int(kept.sum()) * self._width * 4
                    if size > self._first_bytes(buffers, pending.images):
                        # On a stream of its own: the next batch is on the engine's stream already.
                        copy(buffers.packed, buffers.packed_host.buffer, size, self._fetches)
                        self._fetches.sync()
                    rows = (
                        buffers.packed_host.array[buffers.rows_at : size]
                        .view(np.float32)
                        .reshape(-1, self._width)
                        .copy()
                    )
        finally:
            self.release(pending)
        return np.split(rows, np.cumsum(kept)[:-1])

    def release(self, pending: PendingBatch) -> None:
        """Releases the buffers of a batch for reuse; results that were not collected are lost."""
        with self._lock:
            if not self._closed:
                self._free.append(pending.buffers)

    def close(self) -> None:
        """Drops the buffers; the runner does so when it is closed."""
        with self._lock:
            self._closed = True
            self._free.clear()

    def _take_buffers(self) -> BatchBuffers:
        with self._lock:
            found = self._free.pop(0) if self._free else None
        if found is not None:
            # The previous batch in these buffers may still run, if its results were never collected.
            found.done.sync()
            return found
        rows = self._runner.largest_batch * self._limit
        return BatchBuffers(self._runner, self._width * 4, rows)

    def _first_bytes(self, buffers: BatchBuffers, images: int) -> int:
        return buffers.rows_at + min(images * _ROWS_AT_ONCE, images * self._limit) * self._width * 4

    def _pack_params(self, buffers: BatchBuffers, images: int, threshold: float) -> PackParams:
        def address(name: str) -> int | None:
            tensor = self._runner.tensors.get(name)
            return None if tensor is None else address_of(tensor.memory)

        return PackParams(
            address("num_predictions"), address("pred_boxes"), address("pred_scores"), address("pred_joints"),
            address("pred_classes"), address_of(buffers.images), address_of(buffers.packed),
            address_of(buffers.packed) + buffers.rows_at, images, self._limit,
            self._spec.skeleton.num_joints, threshold,
        )  # fmt: skip


def open_pipeline(runner: TrtRunner) -> Pipeline | None:
    """Returns a pipeline if the engine is in batch format and takes images, else None."""
    spec = runner.spec
    counts = runner.tensors.get("num_predictions")
    fits = spec.output.format == "batch" and counts is not None and counts.dtype == np.int32
    fits = fits and spec.input.normalized_in_graph and not spec.input.custom_preprocessing
    fits = fits and spec.input.dtype in ("uint8", "float32") and runner.largest_batch <= MAX_BATCH
    return Pipeline(runner) if fits else None
