"""A callable from batches of columns to batches of columns, which is what data engines take."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
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
_opened: dict[tuple[str, str], PosePredictor] = {}  # by path and the text of the options


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

    For a ``pyarrow.Table`` the result is a ``pyarrow.Table``, with the same column types for every batch. For other
    mappings it is a dict. The result has, beside the columns that are kept, ``count`` (N,) int64; ``boxes``, ``scores``
    and ``joints`` or ``classes``, lists of one item for each person, px of the image; and ``error``, the reason why an
    image could not be read, else None. Rows stay in their order, and an unreadable image never ends the work.

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
        self._batch_size, self._options = batch_size, dict(sorted(options.items()))

    def __call__(self, batch: Any) -> Any:
        """Returns the columns for a batch: a dict of arrays, a ``pandas.DataFrame`` or a ``pyarrow.Table``."""
        table = type(batch).__module__.partition(".")[0] == "pyarrow"
        names = batch.column_names if table else list(batch)
        keep = [name for name in names if name != self._column] if self._keep is None else list(self._keep)
        for name in (self._column, *keep):
            if name not in names:
                raise UsageError(f"finding poses: the batch has no column {name!r}, only {', '.join(map(str, names))}.")
        values = batch[self._column]
        found = self._found(values.to_pylist() if table else list(values))
        return _add_to_table(batch.select(keep), found) if table else {**{name: batch[name] for name in keep}, **found}

    def _found(self, values: list[Any]) -> dict[str, Any]:
        """Returns the columns of predictions and errors, with one row for each image."""
        predictor = _predictor(self._model, self._options)
        task = find_task(predictor.spec.task)
        extra = "joints" if task is POSE else "classes"
        columns: dict[str, list[Any]] = {name: [] for name in ("count", "boxes", "scores", extra, "error")}
        for found in self._find(predictor, values):
            prediction: Any = None if isinstance(found, SourceError) else found.prediction
            columns["count"].append(0 if prediction is None else len(prediction))
            for name in ("boxes", "scores", extra):
                columns[name].append([] if prediction is None else getattr(prediction, name).tolist())
            columns["error"].append(str(found) if isinstance(found, SourceError) else None)
        return {**columns, "count": np.array(columns["count"], np.int64)}

    def _find(self, predictor: PosePredictor, values: list[Any]) -> Iterator[Result | SourceError]:
        """Yields the result of each image, or why it could not be read."""
        images = list(map_ahead(_decode, values, _DECODED_AHEAD))
        readable = [image for image in images if not isinstance(image, SourceError)]
        results: Iterator[Any] = iter(())
        if readable:
            results = predictor.stream(readable, batch_size=self._batch_size)
        for image in images:
            yield image if isinstance(image, SourceError) else next(results)


def _add_to_table(table: Any, columns: Mapping[str, Any]) -> Any:
    """Returns a table of pyarrow with more columns, whose types are the same for every batch."""
    import pyarrow

    numbers = pyarrow.list_(pyarrow.float32())
    types = {
        "count": pyarrow.int64(), "boxes": pyarrow.list_(numbers), "scores": numbers, "error": pyarrow.string(),
        "joints": pyarrow.list_(pyarrow.list_(numbers)), "classes": pyarrow.list_(pyarrow.int64()),
    }  # fmt: skip
    for name, values in columns.items():
        table = table.append_column(name, pyarrow.array(values, types[name]))
    return table


def _decode(value: Any) -> Image | SourceError:
    try:
        if isinstance(value, str):
            return read(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return decode(bytes(value))
        return as_rgb(np.asarray(value))
    except SourceError as error:
        return error


def _predictor(model: str, options: Mapping[str, Any]) -> PosePredictor:
    """Returns this process's predictor for a model; it stays open."""
    key = (model, repr(options))
    with _opening:
        if key not in _opened:
            _opened[key] = PosePredictor(model, **options)
        return _opened[key]
