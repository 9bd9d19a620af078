"""Calibration: collects a histogram per tensor in one pass over the images, then chooses the thresholds."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .._version import __version__
from ..choices import CalibrationMethod
from ..errors import CalibrationError, first_line
from ..files import check_readable, check_writable
from ..graphs.file import load, read_spec
from ..graphs.surgery import extract_subgraph
from ..progress import track
from ..runtime import Runner, open_runner
from ..spec import InputSpec, ModelSpec
from .batches import DEFAULT_BATCHES, Pixels, feeds, open_batches, value_range
from .cache import IMPORTED, CalibrationCache, from_tensorrt
from .histogram import Histogram
from .network import Network
from .resume import Resume

DEFAULT_PERCENTILE = 99.99  # as in super-gradients
_SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    Attributes:
        method: how thresholds are chosen.
        percentile: percentage of values below the threshold, above 0 to 100; used by the ``percentile`` method only.
        batches: number of batches to take from the data, for image files four images each; None takes all.
        images: number of images to take; None takes all.
        providers: ONNX Runtime providers, ``("cpu",)``, ``("openvino",)`` or ``("cuda",)``.
    """

    method: CalibrationMethod = CalibrationMethod.ENTROPY
    percentile: float = DEFAULT_PERCENTILE
    batches: int | None = DEFAULT_BATCHES
    providers: tuple[str, ...] = ("cpu",)
    images: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.percentile, Real) or isinstance(self.batches, bool):
            raise CalibrationError(f"percentile: got {self.percentile!r}, expected a number.")
        if self.batches is not None and not isinstance(self.batches, Integral):
            raise CalibrationError(f"calibration batches: got {self.batches!r}, expected a whole number.")
        if not 0.0 < self.percentile <= 100.0:
            raise CalibrationError(f"percentile: got {self.percentile!r}, expected above 0 to 100.")
        if not isinstance(self.method, CalibrationMethod):
            object.__setattr__(self, "method", CalibrationMethod.parse(self.method, "calibration method"))
        for what, count in (("batches", self.batches), ("images", self.images)):
            if count is not None and count < 1:
                raise CalibrationError(f"calibration {what}: got {count}, expected 1 or more.")

    def open(self, data: Any, spec: InputSpec) -> Iterator[Pixels]:
        """Yields the batches of ``data`` that these options take; see :func:`.batches.open_batches`."""
        default = self.batches == DEFAULT_BATCHES and self.images is None
        return open_batches(data, spec, self.batches, images=self.images, say_rest=default)

    def of_everything(self) -> CalibrationOptions:
        """Returns the same options without a limit, for data of which :meth:`open` took its part already."""
        return replace(self, batches=None, images=None)

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
    gc.collect()  # nodes and tensors of GraphSurgeon refer to each other, and keep a copy of the weights alive
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
        run.feed(options.open(data, spec.input), options)
    except BaseException:
        run.resume.save()
        raise
    # The input range is known from the preprocessing, so it is not calibrated; clipping it would lose highlights.
    known_range = max(map(abs, value_range(spec.input)))
    images = frozenset() if spec.input.custom_preprocessing else network.images()
    result = CalibrationCache(
        thresholds={
            name: known_range if name in images else run.histograms[name].threshold(options.method, options.percentile)
            for name in track(tensors, "choosing thresholds", len(tensors))
        },
        data=_combined(run.images),
        images=len(run.images),
        versions=f"trt_pose {__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}",
        **expected,
    )
    if cache is not None:
        result.write(cache)
    run.resume.forget()
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
        known.check(data=_digest_of(options.open(data, spec.input)))
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
    network, path = Network(load(onnx_file)), check_readable(cache, "reading", CalibrationError)
    try:
        version, thresholds = from_tensorrt(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CalibrationError(f"reading {cache}: it is no text ({first_line(error)}). Check the path.") from error
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
    """A calibration run: fills one histogram per tensor, and continues an interrupted run on the same images.

    Attributes:
        histograms: one per tensor, by name.
        images: digests of the images counted so far.
        resume: state of the interrupted run, and of this one if it is interrupted.
    """

    def __init__(self, part: onnx.ModelProto, spec: ModelSpec, model: str) -> None:
        self._part, self._spec = part, spec
        self.histograms = {item.name: Histogram() for item in part.graph.output}
        self.images: list[str] = []
        self.resume = Resume(model, self.histograms)

    def feed(self, batches: Iterator[Pixels], options: CalibrationOptions) -> None:
        """Counts every batch, except those that an interrupted run on the same images has counted."""
        self.resume.load()
        saved = time.monotonic()
        opened = open_runner(self._part.SerializeToString(), providers=options.providers)
        with opened as runner, ThreadPoolExecutor() as pool:
            for batch in track(batches, "calibrating", options.batches):
                digest = hashlib.sha256(np.ascontiguousarray(batch).data).hexdigest()
                if not self.resume.skips(digest):
                    self._count_whole(runner, pool, batch)
                    self.resume.digests.append(digest)
                self.images += map(_image_digest, batch)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    self.resume.save()
                    saved = time.monotonic()
        self.resume.check_complete()

    def _count_whole(self, runner: Runner, pool: ThreadPoolExecutor, batch: Pixels) -> None:
        """Counts a batch; restores the histograms if it is interrupted."""
        before = {name: histogram.copy() for name, histogram in self.histograms.items()}
        try:
            self._count(runner, pool, batch)
        except BaseException:
            self.histograms.update(before)
            raise

    def _count(self, runner: Runner, pool: ThreadPoolExecutor, batch: Pixels) -> None:
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
                        f"calibrating: {name} is NaN or infinite for batch {len(self.resume.digests)}."
                        " Check the weights."
                    ) from error


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
