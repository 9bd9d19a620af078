"""Calibration: collects a histogram per tensor in one pass over the images, then chooses the thresholds."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .._version import __version__
from ..choices import CalibrationMethod
from ..errors import CalibrationError
from ..files import cache_folder, check_writable, write_atomically
from ..graphs.file import load, read_spec
from ..graphs.surgery import extract_subgraph
from ..progress import track
from ..runtime.ort import OnnxRunner
from ..spec import InputSpec, ModelSpec
from .batches import DEFAULT_BATCHES, Pixels, feeds, open_batches, value_range
from .cache import IMPORTED, CalibrationCache, from_tensorrt
from .histogram import BINS, Histogram
from .network import Network

DEFAULT_PERCENTILE = 99.99  # as in super-gradients
_SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    Attributes:
        method: how thresholds are chosen.
        percentile: percentage of values below the threshold, above 0 to 100; used by the ``percentile`` method only.
        batches: number of batches to take from the data; None takes all.
        providers: ONNX Runtime providers, ``("cpu",)`` or ``("cuda",)``.
    """

    method: CalibrationMethod = CalibrationMethod.ENTROPY
    percentile: float = DEFAULT_PERCENTILE
    batches: int | None = DEFAULT_BATCHES
    providers: tuple[str, ...] = ("cpu",)

    def __post_init__(self) -> None:
        if not isinstance(self.percentile, Real) or isinstance(self.batches, bool):
            raise CalibrationError(f"percentile: got {self.percentile!r}, expected a number. Correct it.")
        if self.batches is not None and not isinstance(self.batches, Integral):
            raise CalibrationError(f"calibration batches: got {self.batches!r}, expected a whole number. Correct it.")
        if not 0.0 < self.percentile <= 100.0:
            raise CalibrationError(f"percentile: got {self.percentile!r}, expected above 0 to 100. Correct it.")
        if not isinstance(self.method, CalibrationMethod):
            object.__setattr__(self, "method", CalibrationMethod.parse(self.method))
        if self.batches is not None and self.batches < 1:
            raise CalibrationError(f"calibration batches: got {self.batches}, expected 1 or more. Correct it.")

    @property
    def label(self) -> str:
        """Name of the method in a cache, with the percentile if it has one."""
        percentile = self.method is CalibrationMethod.PERCENTILE
        return f"{self.method} {self.percentile!r}" if percentile else str(self.method)


def calibrate(
    network: Network,
    tensors: Sequence[str],
    data: Any,
    options: CalibrationOptions | None = None,
    cache: str | Path | None = None,
) -> CalibrationCache:
    """Finds the INT8 threshold of every tensor.

    Args:
        network: the FP32 graph with its ModelSpec; only the part that computes ``tensors`` is run.
        tensors: names of activations.
        data: images, see :func:`open_batches`; None uses an existing ``cache`` without comparing the images.
        options: method, number of batches and providers.
        cache: cache file. It is written if missing; an existing one must match the model, images and method.

    Raises:
        CalibrationError: no data, bad data, or a cache that does not match.
    """
    options = options or CalibrationOptions()
    spec = read_spec(network.proto)
    part = extract_subgraph(network.proto, tensors)
    expected = {"model": _digest(network), "preprocessing": _preprocessing(spec.input), "method": options.label}
    if cache is not None and Path(cache).exists():
        return _known(Path(cache), expected, tensors, data, spec, options)
    if data is None:
        raise CalibrationError(
            "calibrating: INT8 needs images like those the model will see, and got none. Give a folder or a loader"
            " (or 'random', which ruins the accuracy, by name)."
        )
    if cache is not None:
        check_writable(cache, CalibrationError)  # fail before the calibration, not after it
    run = Calibration(part, spec, expected["model"])
    try:
        run.feed(open_batches(data, spec.input, options.batches), options)
    except BaseException:
        run.save()
        raise
    # The input range is known from the preprocessing, so it is not calibrated; clipping it would lose highlights.
    known_range = max(map(abs, value_range(spec.input)))
    images = frozenset() if spec.input.custom_preprocessing else network.images()
    result = CalibrationCache(
        thresholds={
            name: known_range if name in images else run.histograms[name].threshold(options.method, options.percentile)
            for name in track(tensors, "choosing thresholds", len(tensors))
        },
        data=_combined(run.seen),
        images=len(run.seen),
        versions=f"trt_pose {__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}",
        **expected,
    )
    if cache is not None:
        result.write(cache)
    run.forget()
    return result


def _known(
    path: Path,
    expected: dict[str, str],
    tensors: Sequence[str],
    data: Any,
    spec: ModelSpec,
    options: CalibrationOptions,
) -> CalibrationCache:
    """Reads the cache at ``path``. Raises CalibrationError unless it matches this run."""
    known = CalibrationCache.read(path)
    known.check(**expected)
    if data is not None:
        known.check(data=_digest_of(open_batches(data, spec.input, options.batches)))
    missing = [name for name in tensors if name not in known.thresholds]
    if missing:
        raise CalibrationError(
            f"using {path}: it lacks {len(missing)} of {len(tensors)} tensors, {missing[0]} first. Name another with"
            " --cache."
        )
    return known


def import_tensorrt(onnx_file: str | Path, cache: str | Path) -> CalibrationCache:
    """Converts a TensorRT calibration cache to a :class:`CalibrationCache` for the given ONNX file.

    Raises:
        CalibrationError: not a TensorRT cache, or one that lacks tensors of this file and so is of another model.
    """
    network = Network(load(onnx_file))
    try:
        version, thresholds = from_tensorrt(Path(cache).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"reading {cache}: {getattr(error, 'strerror', None) or error}. Check the path."
        ) from error
    missing = [name for name in network.activations() if name not in thresholds]
    if missing:
        raise CalibrationError(
            f"importing {cache}: it lacks {len(missing)} of {len(network.activations())} tensors of {onnx_file}"
            f" ({missing[0]} first). It was made with another file."
        )
    return CalibrationCache(
        thresholds=thresholds,
        model=_digest(network),
        preprocessing=_preprocessing(read_spec(network.proto).input),
        data=IMPORTED,
        images=0,
        method=str(CalibrationMethod.ENTROPY),
        versions=f"TensorRT {version}",
    )


class Calibration:
    """A calibration run, which fills the histograms; the counts of an interrupted run are saved for the next one.

    Attributes:
        histograms: one per tensor, by name.
        resumed: number of images that were counted by an interrupted run.
        seen: digests of the images counted so far.
    """

    def __init__(self, part: onnx.ModelProto, spec: ModelSpec, model: str) -> None:
        self._part, self._spec = part, spec
        self.histograms = {item.name: Histogram() for item in part.graph.output}
        self.resumed = 0
        self.seen: list[str] = []
        self._digests: list[str] = []
        self._skipping = False  # over batches that an earlier run counted: the saved state is ahead
        names = hashlib.sha256("\n".join(self.histograms).encode()).hexdigest()
        self._state = cache_folder("calibration") / f"{model[:24]}-{names[:8]}.npz"

    def feed(self, batches: Iterator[Pixels], options: CalibrationOptions) -> None:
        """Counts every batch, except those that an interrupted run on the same images has counted."""
        earlier = self._load()
        saved = time.monotonic()
        opened = OnnxRunner(self._part.SerializeToString(), providers=list(options.providers))
        with opened as runner, ThreadPoolExecutor() as pool:
            for batch in track(batches, "calibrating", options.batches):
                digest = hashlib.sha256(np.ascontiguousarray(batch).data).hexdigest()
                if earlier and digest == earlier[0]:
                    del earlier[0]
                    self.resumed += len(batch)
                else:
                    self._start_over(earlier)
                    self._count_whole(runner, pool, batch)
                self._digests.append(digest)
                self.seen += map(_image_digest, batch)
                self._skipping = bool(earlier)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
        self._start_over(earlier)

    def _count_whole(self, runner: OnnxRunner, pool: ThreadPoolExecutor, batch: Pixels) -> None:
        """Counts a batch; restores the histograms if it is interrupted."""
        before = {name: histogram.copy() for name, histogram in self.histograms.items()}
        try:
            self._count(runner, pool, batch)
        except BaseException:
            self.histograms = before
            raise

    def _start_over(self, earlier: list[str]) -> None:
        """Drops the counts of an interrupted run on other images; raises CalibrationError if batches were skipped."""
        if not earlier:
            return
        self.forget()
        earlier.clear()
        self.histograms = {name: Histogram() for name in self.histograms}
        self._skipping = False
        if self.resumed:
            count = len(self.seen)
            self._digests, self.seen = [], []
            raise CalibrationError(
                f"resuming the calibration: an interrupted run saw the same first {count} images, then others, or more."
                " Its counts are dropped: run it again."
            )

    def _count(self, runner: OnnxRunner, pool: ThreadPoolExecutor, batch: Pixels) -> None:
        for images, rows in feeds([batch], self._spec.input):
            outputs = runner.run({self._spec.input.name: images})
            # OpenCV releases the GIL while it counts, so tensors are counted in parallel.
            batched = images.shape[:1]
            jobs = [
                pool.submit(self.histograms[name].add, values[:rows] if values.shape[:1] == batched else values)
                for name, values in outputs.items()
            ]
            for name, job in zip(outputs, jobs, strict=True):
                try:
                    job.result()
                except ValueError as error:
                    raise CalibrationError(
                        f"calibrating: {name} is NaN or infinite for batch {len(self._digests)}. Check the weights."
                    ) from error

    def save(self) -> None:
        """Saves the histograms for the next run. If the file cannot be written, the next run starts over."""
        if not self._digests or self._skipping:
            return
        counts = np.stack([item.counts for item in self.histograms.values()])
        rest = np.array([[item.range, item.largest, item.seen] for item in self.histograms.values()])
        with suppress(OSError, CalibrationError):
            self._state.parent.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {"counts": counts, "rest": rest, "digests": np.array(self._digests)}
            write_atomically(self._state, lambda path: np.savez(path, **arrays), CalibrationError)

    def forget(self) -> None:
        """Removes the file that :meth:`save` wrote."""
        with suppress(OSError):
            self._state.unlink(missing_ok=True)

    def _load(self) -> list[str]:
        """Loads the histograms of an interrupted run; returns the digests of its batches."""
        try:
            with np.load(io.BytesIO(self._state.read_bytes())) as saved:
                counts, rest, digests = saved["counts"], saved["rest"], [str(item) for item in saved["digests"]]
            if counts.shape != (len(self.histograms), BINS) or rest.shape != (len(self.histograms), 3):
                return []
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return []
        for histogram, row, (end, largest, seen) in zip(self.histograms.values(), counts, rest, strict=True):
            histogram.counts, histogram.range, histogram.largest, histogram.seen = row, end, largest, int(seen)
        return digests


def _digest(network: Network) -> str:
    """Returns the SHA-256 of the graph up to the weighted layers, with weights; excludes decode and metadata."""
    digest = hashlib.sha256()
    nodes = network.upstream(network.results())
    used = [node for node in network.proto.graph.node if node.name in nodes]
    for node in sorted(used, key=lambda node: node.name):
        digest.update(node.SerializeToString(deterministic=True))
    read = {name for node in used for name in node.input}
    for item in sorted(network.proto.graph.initializer, key=lambda tensor: tensor.name):
        if item.name in read:
            digest.update(item.name.encode() + onnx.numpy_helper.to_array(item).tobytes())
    return digest.hexdigest()


def _digest_of(batches: Iterator[Pixels]) -> str:
    return _combined(digest for batch in batches for digest in map(_image_digest, batch))


def _image_digest(image: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def _combined(digests: Iterable[str]) -> str:
    """Combines image digests into one, independent of order and batches, which do not change the thresholds."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _preprocessing(spec: InputSpec) -> str:
    policy = asdict(spec)
    policy.pop("batch")
    return json.dumps(policy, sort_keys=True)
