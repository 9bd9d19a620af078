"""A callable from batches of columns to batches of columns, which is what data engines take."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import SourceError, UsageError
from ..images.ahead import map_ahead
from ..images.pixels import Image, as_rgb, decode, read
from ..predictor import PosePredictor
from ..results.detections import Result
from ..tasks import POSE, find_task

_DECODED_AHEAD = 16
_opening = threading.Lock()
_opened: dict[tuple[str, tuple[tuple[str, Any], ...]], PosePredictor] = {}


class FindPoses:
    """Finds the people, or objects, in the images of a column.

    It holds only the path of the model and its options, so that it can be sent to other processes. Each process opens
    the model at its first batch, and once, however many copies there are.

    Args:
        model: path of an ``.onnx`` file or engine, readable in every process.
        column: the column of the images: bytes of image files, paths, or uint8 arrays (H, W, 3) RGB. Of an animation
            the first picture is taken.
        keep: columns to pass on; None takes all but the images. A path is an image, too: keep it by its name.
        batch_size: images per run of a file with a symbolic batch; 1 when None.
        options: options of :class:`PosePredictor`, such as ``conf`` and ``threads``.

    The result has, beside the columns that are kept, ``count`` (N,) int64; ``boxes``, ``scores`` and ``joints`` or
    ``classes``, lists of one item for each person, px of the image; and ``error``, the reason why an image could not be
    read, else None. Rows stay in their order, and an unreadable image never ends the work.

    Raises:
        UsageError: the batch lacks a column.
        PoseError: the model cannot be opened, as :class:`PosePredictor` says.
    """

    def __init__(
        self,
        model: str,
        column: str = "bytes",
        *,
        keep: Sequence[str] | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        self._model, self._column, self._keep = str(model), column, keep
        self._batch_size, self._options = batch_size, tuple(sorted(options.items()))

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Returns the columns for a batch: a mapping of columns, such as a dict of arrays or a ``pandas.DataFrame``."""
        names = list(batch)
        keep = [name for name in names if name != self._column] if self._keep is None else list(self._keep)
        for name in (self._column, *keep):
            if name not in names:
                raise UsageError(f"finding poses: the batch has no column {name!r}, only {', '.join(map(str, names))}.")
        predictor = _predictor(self._model, self._options)
        task = find_task(predictor.spec.task)
        extra = "joints" if task is POSE else "classes"
        columns: dict[str, list[Any]] = {name: [] for name in ("count", "boxes", "scores", extra, "error")}
        for found in self._find(predictor, batch[self._column]):
            prediction: Any = None if isinstance(found, SourceError) else found.prediction
            columns["count"].append(0 if prediction is None else len(prediction))
            for name in ("boxes", "scores", extra):
                columns[name].append([] if prediction is None else getattr(prediction, name).tolist())
            columns["error"].append(str(found) if isinstance(found, SourceError) else None)
        return {**{name: batch[name] for name in keep}, **columns, "count": np.array(columns["count"], np.int64)}

    def _find(self, predictor: PosePredictor, values: Any) -> Iterator[Result | SourceError]:
        """Yields the result of each image, or why it could not be read."""
        images = list(map_ahead(_decode, list(values), _DECODED_AHEAD))
        readable = [image for image in images if not isinstance(image, SourceError)]
        results: Iterator[Any] = iter(())
        if readable:
            results = predictor.stream(readable, batch_size=self._batch_size)
        for image in images:
            yield image if isinstance(image, SourceError) else next(results)


def _decode(value: Any) -> Image | SourceError:
    try:
        if isinstance(value, str):
            return read(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return decode(bytes(value))
        return as_rgb(np.asarray(value))
    except SourceError as error:
        return error


def _predictor(model: str, options: tuple[tuple[str, Any], ...]) -> PosePredictor:
    """Returns this process's predictor for a model; it stays open."""
    with _opening:
        if (model, options) not in _opened:
            _opened[model, options] = PosePredictor(model, **dict(options))
        return _opened[model, options]
