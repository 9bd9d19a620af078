"""The saved state of an interrupted calibration, which the next run on the same images continues."""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from contextlib import suppress
from typing import Any

import numpy as np

from ..errors import CalibrationError
from ..files import cache_folder, check_readable, write_atomically
from .histogram import BINS, Histogram

# What NumPy and zipfile raise for damaged archives, beside the common errors.
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, tokenize.TokenError)
_FLOAT = np.dtype(np.float64)
_OTHERS_BYTES = 64 << 20  # of a saved state, beside the counts


class Resume:
    """Skips the batches that an interrupted run has counted, and saves the counts of this run.

    Args:
        model: digest of the network.
        histograms: one per tensor, by name; :meth:`load` fills them with the saved counts.

    Attributes:
        digests: SHA-256 of the batches that the histograms contain, in order.
    """

    def __init__(self, model: str, histograms: dict[str, Histogram]) -> None:
        self.digests: list[str] = []
        self._histograms = histograms
        self._ahead = 0  # number of loaded digests, the last ones, that the batches of this run have yet to repeat
        names = hashlib.sha256("\n".join(histograms).encode()).hexdigest()
        self._file = cache_folder("calibration") / f"{model[:24]}-{names[:8]}.npz"

    def skips(self, digest: str) -> bool:
        """True if the interrupted run has counted this batch at this place.

        At the first other batch the saved counts are dropped.

        Raises:
            CalibrationError: batches were skipped already, so that the counts of this run are incomplete.
        """
        if not self._ahead:
            return False
        if digest != self.digests[-self._ahead]:
            self._drop()
            return False
        self._ahead -= 1
        return True

    def check_complete(self) -> None:
        """Raises CalibrationError when the interrupted run had counted more batches than this run got."""
        if self._ahead:
            self._drop()

    def _drop(self) -> None:
        self.forget()
        skipped = len(self.digests) - self._ahead
        self.digests, self._ahead = [], 0
        self._histograms.update({name: Histogram() for name in self._histograms})
        if skipped:
            raise CalibrationError(
                f"resuming the calibration: an interrupted run saw the same first {skipped} batches, then others, or"
                " more. Its counts are dropped: run it again."
            )

    def load(self) -> None:
        """Fills the histograms with the counts of an interrupted run, if there are any that are whole."""
        number = len(self._histograms)
        try:
            check_readable(self._file, "reading", CalibrationError)
            with zipfile.ZipFile(self._file) as archive:
                unpacked = sum(item.file_size for item in archive.infolist())
            if unpacked > number * BINS * 8 + _OTHERS_BYTES:
                return
            with np.load(io.BytesIO(self._file.read_bytes())) as saved:
                counts, rest, digests = saved["counts"], saved["rest"], [str(item) for item in saved["digests"]]
        except (CalibrationError, OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError, *_DAMAGED):
            return
        if (counts.shape, counts.dtype, rest.shape, rest.dtype) != ((number, BINS), _FLOAT, (number, 3), _FLOAT):
            return
        # Ranges are powers of 2, or 0 for a tensor that was always 0.
        mantissas, _ = np.frexp(rest[:, 0])
        fine = np.isfinite(rest).all() and (rest >= 0).all() and np.isin(mantissas, (0.0, 0.5)).all()
        if not fine or not (np.isfinite(counts).all() and (counts >= 0).all() and (rest[:, 1] <= rest[:, 0]).all()):
            return
        for histogram, row, (end, largest, seen) in zip(self._histograms.values(), counts, rest, strict=True):
            histogram.counts, histogram.range, histogram.largest, histogram.seen = row, end, largest, int(seen)
        self.digests, self._ahead = digests, len(digests)

    def save(self) -> None:
        """Saves the histograms for the next run. If the file cannot be written, the next run starts over."""
        if not self.digests or self._ahead:  # what was loaded is saved already
            return
        counts = np.stack([item.counts for item in self._histograms.values()])
        rest = np.array([[item.range, item.largest, item.seen] for item in self._histograms.values()])
        with suppress(OSError, CalibrationError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {"counts": counts, "rest": rest, "digests": np.array(self.digests)}
            write_atomically(self._file, lambda path: np.savez(path, **arrays), CalibrationError)

    def forget(self) -> None:
        """Removes the saved state."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
