"""Pipeline of letterbox, engine and packing on the GPU, for two batches at a time.

The host only copies images in and rows out. While a batch runs on the GPU, the host decodes and uploads the next one.
Only the kept rows are copied back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import Floats
from ..gpu.device import Event, Memory, Pinned, Stream, download, upload
from ..gpu.frames import BLOCK_THREADS, MAX_BATCH, LetterboxParams, PackParams, kernel_source, letterbox_params
from ..gpu.kernels import Kernel
from ..images.pixels import Image
from ..tasks import find_task
from .trt import TrtRunner

# Rows per image that are copied together with the counts; more rows need a second copy.
_ROWS_AT_ONCE = 32
_PLACE_BYTES = 16  # letterbox of one image, four floats


class BatchBuffers:
    """Buffers of one batch: images and their letterboxes as input, packed rows as output."""

    def __init__(self, runner: TrtRunner, row_bytes: int, rows: int) -> None:
        device, batch = runner.device, runner.largest_batch
        self.runner = runner
        self.rows_at = 4 * batch  # the counts come first
        size = self.rows_at + rows * row_bytes
        self.packed, self.packed_host = runner.own(Memory(device, size)), runner.own(Pinned(device, size))
        self.uploaded, self.done = (runner.own(Event(device, timed=False)) for _ in range(2))
        self.images, self.images_host = runner.own(Memory(device, 1 << 20)), runner.own(Pinned(device, 1 << 20))

    def reserve(self, size: int) -> None:
        """Makes room for ``size`` bytes of images and letterboxes; a buffer that grows at least doubles."""
        if size > self.images.size:
            size = max(size, 2 * self.images.size)
            for old in (self.images, self.images_host):
                old.close()
            self.images = self.runner.own(Memory(self.runner.device, size))
            self.images_host = self.runner.own(Pinned(self.runner.device, size))


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
        self._uploads: Stream = runner.own(Stream(runner.device))
        runner.streams.append(self._uploads)
        self._letterbox, self._pack = (Kernel(kernel_source(), name) for name in ("letterbox", "pack_rows"))
        self._free: list[BatchBuffers] = []
        self._lock = threading.Lock()

    def submit(self, images: Sequence[Image], threshold: float) -> PendingBatch:
        """Starts a batch and returns at once.

        Args:
            images: (H, W, 3) uint8 RGB, at most the engine's largest batch.
            threshold: rows with a higher score are returned.

        Raises:
            RunnerError: more images than the engine takes, the runner is closed, or TensorRT failed.
        """
        runner = self._runner
        with runner.lock, runner.device.current() as driver:
            runner.check_open()
            runner.check_batch(len(images))
            buffers = self._take_buffers()
            try:
                self._enqueue(driver, buffers, images, threshold)
            except BaseException:
                for stream in runner.streams:  # pending work must not write to released buffers
                    stream.wait(driver, spin=False)
                self.release(PendingBatch(buffers, 0))
                raise
        return PendingBatch(buffers, len(images))

    def _enqueue(self, driver: Any, buffers: BatchBuffers, images: Sequence[Image], threshold: float) -> None:
        """Enqueues upload, letterbox, engine, packing and download on their streams, without waiting."""
        runner = self._runner
        batch = self._spec.input.batch or len(images)
        runner.set_shapes({self._spec.input.name: (batch, *runner.tensors[self._spec.input.name].largest[1:])})
        launches, size = self._pack_images(buffers, images)
        upload(driver, buffers.images, buffers.images_host, size, self._uploads)
        buffers.uploaded.record(driver, self._uploads)
        runner.stream.wait_for(driver, buffers.uploaded)
        pixels = self._spec.input.height * self._spec.input.width
        for params in launches:
            self._letterbox.launch(-(-pixels // BLOCK_THREADS), BLOCK_THREADS, params, runner.stream.address)
        runner.enqueue(driver)
        self._pack.launch(1, BLOCK_THREADS, self._pack_params(buffers, len(images), threshold), runner.stream.address)
        download(driver, buffers.packed_host, buffers.packed, self._first_bytes(buffers, len(images)), runner.stream)
        buffers.done.record(driver, runner.stream)

    def _pack_images(self, buffers: BatchBuffers, images: Sequence[Image]) -> tuple[list[LetterboxParams], int]:
        """Copies the letterboxes of the images and then the images into the host buffer, one after another.

        Returns:
            The parameters of the letterbox kernel for each image, and the number of bytes to upload.
        """
        target = self._runner.tensors[self._spec.input.name]
        image_bytes = target.size(target.largest[1:])
        starts = np.cumsum([_PLACE_BYTES * len(images), *(image.nbytes for image in images)]).tolist()
        buffers.reserve(starts[-1])
        places = np.zeros((len(images), 4), np.float32)
        launches = []
        for index, (image, start) in enumerate(zip(images, starts[:-1], strict=True)):
            buffers.images_host.array[start : start + image.nbytes] = image.reshape(-1)
            source, result = buffers.images.address + start, target.memory.address + index * image_bytes
            params, placed = letterbox_params(image.shape, source, result, self._spec.input)
            places[index] = (placed.scale_x, placed.scale_y, placed.left, placed.top)
            launches.append(params)
        buffers.images_host.view(places.shape, np.float32)[...] = places
        return launches, starts[-1]

    def collect(self, pending: PendingBatch) -> list[Floats]:
        """Waits for a batch; returns rows (K, 5 + 3J) or (K, 6) per image, in image px; see ``Poses.from_rows``."""
        buffers, runner = pending.buffers, self._runner
        try:
            with runner.device.current() as driver:
                with runner.lock:
                    runner.check_open()
                buffers.done.wait(driver)
                with runner.lock:
                    runner.check_open()
                    kept = buffers.packed_host.view((pending.images,), np.int32).copy()
                    size = buffers.rows_at + int(kept.sum()) * self._width * 4
                    if size > self._first_bytes(buffers, pending.images):
                        download(driver, buffers.packed_host, buffers.packed, size, runner.stream)
                        buffers.done.record(driver, runner.stream)
                        buffers.done.wait(driver)
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
            self._free.append(pending.buffers)

    def _take_buffers(self) -> BatchBuffers:
        with self._lock:
            if self._free:
                return self._free.pop(0)
        rows = self._runner.largest_batch * self._limit
        return BatchBuffers(self._runner, self._width * 4, rows)

    def _first_bytes(self, buffers: BatchBuffers, images: int) -> int:
        return buffers.rows_at + min(images * _ROWS_AT_ONCE, images * self._limit) * self._width * 4

    def _pack_params(self, buffers: BatchBuffers, images: int, threshold: float) -> PackParams:
        def address(name: str) -> int | None:
            tensor = self._runner.tensors.get(name)
            return None if tensor is None else tensor.memory.address

        return PackParams(
            address("num_predictions"), address("pred_boxes"), address("pred_scores"), address("pred_joints"),
            address("pred_classes"), buffers.images.address, buffers.packed.address,
            buffers.packed.address + buffers.rows_at, images, self._limit, self._spec.skeleton.num_joints, threshold,
        )  # fmt: skip


def open_pipeline(runner: TrtRunner) -> Pipeline | None:
    """Returns a pipeline if the engine is in batch format and takes images, else None."""
    spec = runner.spec
    counts = runner.tensors.get("num_predictions")
    fits = spec.output.format == "batch" and counts is not None and counts.dtype == np.int32
    fits = fits and spec.input.normalized_in_graph and not spec.input.custom_preprocessing
    fits = fits and spec.input.dtype in ("uint8", "float32") and runner.largest_batch <= MAX_BATCH
    return Pipeline(runner) if fits else None
