"""Images to results with nothing on the host but the copies in and out: letterbox, engine, packing, two batches deep.

While a batch runs on the GPU the host decodes and uploads the next one; what comes back are the kept rows alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import Floats
from ..gpu.device import Event, Memory, Pinned, Stream, download, upload
from ..gpu.frames import BLOCK_THREADS, MAX_BATCH, PackParams, kernel_source, letterbox_params
from ..gpu.kernels import Kernel
from ..images.pixels import Image
from .trt import TrtRunner

# Rows that come back with the counts, per image: more of them cost a second copy.
_ROWS_AT_ONCE = 32
_PLACE_BYTES = 16  # four floats per image: how it was placed


class Slot:
    """The memory of one batch on its way: images and their places going in, rows coming out."""

    def __init__(self, runner: TrtRunner, row_bytes: int, rows: int) -> None:
        device, batch = runner.device, runner.largest_batch
        self.runner = runner
        self.rows_at = 4 * batch  # the counts come first
        size = self.rows_at + rows * row_bytes
        self.packed, self.packed_host = runner.own(Memory(device, size)), runner.own(Pinned(device, size))
        self.uploaded, self.done = (runner.own(Event(device, timed=False)) for _ in range(2))
        self.images, self.images_host = runner.own(Memory(device, 1 << 20)), runner.own(Pinned(device, 1 << 20))

    def reserve(self, size: int) -> None:
        """Room for so many bytes of images; a slot that grows doubles."""
        if size > self.images.size:
            size = max(size, 2 * self.images.size)
            for old in (self.images, self.images_host):
                old.close()
            self.images = self.runner.own(Memory(self.runner.device, size))
            self.images_host = self.runner.own(Pinned(self.runner.device, size))


@dataclass(frozen=True)
class Ticket:
    """A batch that was submitted: its slot, and how many images it has."""

    slot: Slot
    images: int


class Pipeline:
    """Runs batches of images on an engine; use :func:`open_pipeline`."""

    def __init__(self, runner: TrtRunner) -> None:
        self._runner, self._spec = runner, runner.spec
        self._width = 5 + (3 * self._spec.skeleton.num_joints if self._spec.task == "pose" else 1)
        self._limit = runner.tensors["pred_scores"].largest[1]
        self._uploads: Stream = runner.own(Stream(runner.device))
        runner.streams.append(self._uploads)
        self._letterbox, self._pack = (Kernel(kernel_source(), name) for name in ("letterbox", "pack_rows"))
        self._free: list[Slot] = []
        self._lock = threading.Lock()

    def submit(self, images: Sequence[Image], threshold: float) -> Ticket:
        """Starts a batch and returns at once.

        Args:
            images: (H, W, 3) uint8 RGB, at most the engine's largest batch. threshold: rows above it come back.

        Raises:
            RunnerError: more images than the engine takes, the runner is closed, or TensorRT failed.
        """
        runner = self._runner
        with runner.lock, runner.device.current() as driver:
            runner.check_open()
            runner.check_batch(len(images))
            slot = self._take_slot()
            try:
                self._enqueue(driver, slot, images, threshold)
            except BaseException:
                for stream in runner.streams:  # nothing may still write what the next batch takes
                    stream.wait(driver, spin=False)
                self.release(Ticket(slot, 0))
                raise
        return Ticket(slot, len(images))

    def _enqueue(self, driver: Any, slot: Slot, images: Sequence[Image], threshold: float) -> None:
        """Upload, letterbox, engine, packing, download: each on its stream, none waited for."""
        runner = self._runner
        batch = self._spec.input.batch or len(images)
        runner.set_shapes({self._spec.input.name: (batch, *runner.tensors[self._spec.input.name].largest[1:])})
        places = np.zeros((len(images), 4), np.float32)
        offsets = np.cumsum([_PLACE_BYTES * len(images), *(image.nbytes for image in images)])
        slot.reserve(int(offsets[-1]))
        target = runner.tensors[self._spec.input.name]
        image_bytes = target.size(target.largest[1:])
        launches = []
        for index, (image, offset) in enumerate(zip(images, offsets, strict=False)):
            slot.images_host.array[offset : offset + image.nbytes] = image.reshape(-1)
            params, placed = letterbox_params(
                image.shape,
                slot.images.address + int(offset),
                target.memory.address + index * image_bytes,
                self._spec.input,
            )
            places[index] = (placed.scale_x, placed.scale_y, placed.left, placed.top)
            launches.append(params)
        slot.images_host.view(places.shape, np.float32)[...] = places
        upload(driver, slot.images, slot.images_host, int(offsets[-1]), self._uploads)
        slot.uploaded.record(driver, self._uploads)
        runner.stream.wait_for(driver, slot.uploaded)
        pixels = self._spec.input.height * self._spec.input.width
        for params in launches:
            self._letterbox.launch(-(-pixels // BLOCK_THREADS), BLOCK_THREADS, params, runner.stream.address)
        runner.enqueue(driver)
        self._pack.launch(1, BLOCK_THREADS, self._pack_params(slot, len(images), threshold), runner.stream.address)
        download(driver, slot.packed_host, slot.packed, self._first_bytes(slot, len(images)), runner.stream)
        slot.done.record(driver, runner.stream)

    def collect(self, ticket: Ticket) -> list[Floats]:
        """Waits for a batch: rows (K, 5 + 3J) or (K, 6) per image, px of the images; see ``Poses.from_rows``."""
        slot, runner = ticket.slot, self._runner
        try:
            with runner.device.current() as driver:
                with runner.lock:
                    runner.check_open()
                slot.done.wait(driver)
                with runner.lock:
                    runner.check_open()
                    kept = slot.packed_host.view((ticket.images,), np.int32).copy()
                    size = slot.rows_at + int(kept.sum()) * self._width * 4
                    if size > self._first_bytes(slot, ticket.images):
                        download(driver, slot.packed_host, slot.packed, size, runner.stream)
                        slot.done.record(driver, runner.stream)
                        slot.done.wait(driver)
                    rows = slot.packed_host.array[slot.rows_at : size].view(np.float32).reshape(-1, self._width).copy()
        finally:
            self.release(ticket)
        return np.split(rows, np.cumsum(kept)[:-1])

    def release(self, ticket: Ticket) -> None:
        """Gives up a batch whose results nobody wants."""
        with self._lock:
            self._free.append(ticket.slot)

    def _take_slot(self) -> Slot:
        with self._lock:
            if self._free:
                return self._free.pop(0)
        rows = self._runner.largest_batch * self._limit
        return Slot(self._runner, self._width * 4, rows)

    def _first_bytes(self, slot: Slot, images: int) -> int:
        return slot.rows_at + min(images * _ROWS_AT_ONCE, images * self._limit) * self._width * 4

    def _pack_params(self, slot: Slot, images: int, threshold: float) -> PackParams:
        def address(name: str) -> int | None:
            tensor = self._runner.tensors.get(name)
            return None if tensor is None else tensor.memory.address

        return PackParams(
            address("num_predictions"), address("pred_boxes"), address("pred_scores"), address("pred_joints"),
            address("pred_classes"), slot.images.address, slot.packed.address, slot.packed.address + slot.rows_at,
            images, self._limit, self._spec.skeleton.num_joints, threshold,
        )  # fmt: skip


def open_pipeline(runner: object) -> Pipeline | None:
    """A pipeline where the runner is an engine in batch format that takes images; else None: NumPy does it then."""
    if not isinstance(runner, TrtRunner):
        return None
    spec = runner.spec
    counts = runner.tensors.get("num_predictions")
    fits = spec.output.format == "batch" and counts is not None and counts.dtype == np.int32
    fits = fits and spec.input.normalized_in_graph and not spec.input.custom_preprocessing
    fits = fits and spec.input.dtype in ("uint8", "float32") and runner.largest_batch <= MAX_BATCH
    return Pipeline(runner) if fits else None
