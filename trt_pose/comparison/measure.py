"""Comparison of the people or objects that two model files detect in the same images.

It measures the accuracy that a reduced precision (INT8, FP16) costs: distances in pixels, OKS (IoU for detection
models) and numbers of missed people or objects, per image and in total.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import RunnerError, SourceError, UsageError
from ..files import check_writable, write_atomically
from ..images.reading import Reading
from ..images.sources import open_source
from ..optional import require
from ..predictor import PosePredictor, place
from ..progress import track
from ..results.detections import Result
from ..results.pairing import pair
from ..results.predictions import Predictions
from ..runtime import find_backend, open_runner
from ..tasks import TASKS
from .page import write_page
from .result import Comparison, ImageComparison, TensorGap

_WORST_SHOWN = 6
_LEAST_CONFIDENCE = 0.25  # of the predictions that are compared, unless another is asked for


def check_loss(result: Comparison, limit: float) -> bool:
    """Returns whether the loss is at most ``limit``.

    Raises:
        UsageError: ``limit`` is outside 0..1.
        RunnerError: neither file found anything, so nothing was compared.
    """
    if not 0.0 <= limit <= 1.0:
        raise UsageError(f"--max-loss: got {limit!r}, expected a number from 0 to 1.")
    if not result.found + result.extra:
        what = TASKS[result.task].many
        raise RunnerError(
            f"comparing {result.first} and {result.second}: neither finds {what}, so nothing was compared. Use images"
            f" with {what}, or a lower --conf."
        )
    return result.loss <= limit


def compare(
    first: str | Path,
    second: str | Path,
    images: Any,
    *,
    confidence: float | None = None,
    tensors: bool = False,
    report: Path | None = None,
    max_loss: float | None = None,
    strict: bool = False,
    providers: str | None = None,
) -> Comparison:
    """Runs two model files on the same images and compares their results.

    Args:
        first: the reference, an ``.onnx`` file or an engine.
        second: the file that is compared with it, an ``.onnx`` file or an engine.
        images: see :func:`trt_pose.images.sources.open_source`.
        confidence: keep scores above it; None takes 0.25, or the threshold of a file if that is higher, because files
            made for evaluation hold hundreds of predictions with low scores.
        tensors: also compare the output tensors, row by row, and the signal-to-noise ratio of each tensor that two
            ONNX files share, on the first image.
        report: path of an HTML report to write, with the most different images side by side.
        max_loss: the loss that the report calls passed, see :func:`check_loss`.
        strict: stop at the first image that cannot be read, instead of a warning.
        providers: what runs ``.onnx`` files, see :func:`trt_pose.open_runner`; None takes ONNX Runtime on the CPU for
            both, so that only the files differ.

    Raises:
        RunnerError: a file cannot be run here, or the files differ in task, joints or classes.
        SourceError: an image cannot be read, or the report cannot be written.
        UsageError: the report has another suffix than ``.html`` or ``.htm``.
        MissingDependencyError: ``tensors`` needs Polygraphy, and onnx for two ONNX files.
    """
    if report is not None:
        if report.suffix.lower() not in (".html", ".htm"):
            got = report.suffix or "none"
            raise UsageError(f"writing {report}: got the suffix {got!r}, expected .html.")
        check_writable(report, SourceError)
    if tensors:
        require("polygraphy.comparator", "comparing tensors")  # fail before the images are run
    task, threshold, rows, worst = _run(first, second, images, confidence, strict, providers)
    if not any(row.first or row.second for row in rows):
        warnings.warn(
            f"neither file finds {TASKS[task].many} with scores above {threshold:g} in these images, so nothing was"
            " compared. Give other images, or a lower threshold.",
            stacklevel=2,
        )
    result = Comparison(
        first=str(first),
        second=str(second),
        images=tuple(rows),
        noise_db=_noise(first, second, images) if tensors else {},
        outputs=compare_outputs(first, second, images) if tensors else {},
        task=task,
        confidence=threshold,
    )
    if report is not None:
        page = write_page(result, worst, max_loss)
        write_atomically(report, lambda path: path.write_text(page, encoding="utf-8"), SourceError)
    return result


Pair = tuple[ImageComparison, Result, Result]


def _run(
    first: str | Path,
    second: str | Path,
    images: Any,
    confidence: float | None,
    strict: bool,
    providers: str | None,
) -> tuple[str, float, list[ImageComparison], list[Pair]]:
    """Returns the task of the files, the threshold, each image's comparison, and the most different ones' results."""
    rows: list[ImageComparison] = []
    worst: list[Pair] = []
    with _open(first, confidence, providers) as one, _open(second, confidence, providers) as other:
        if one.spec.task != other.spec.task:
            raise RunnerError(
                f"comparing {first} and {second}: one is for {one.spec.task}, the other for {other.spec.task}. Compare"
                " files of one model."
            )
        if one.spec.skeleton != other.spec.skeleton or one.spec.class_names != other.spec.class_names:
            what = TASKS[one.spec.task].labels
            counts = " and ".join(
                str(spec.skeleton.num_joints or len(spec.class_names)) for spec in (one.spec, other.spec)
            )
            raise RunnerError(
                f"comparing {first} and {second}: their {what} differ ({counts}). Compare files of one model."
            )
        thresholds = [predictor.spec.output.confidence_threshold or 0.0 for predictor in (one, other)]
        threshold = max(_LEAST_CONFIDENCE, *thresholds) if confidence is None else confidence
        frames = open_source(images, Reading(strict=strict))
        for frame in track(frames.images(), "comparing", frames.total):
            a, b = (_above(cast(Result, predictor.predict(frame.image)), threshold) for predictor in (one, other))
            row = compare_image(a.prediction, b.prediction, frame.source)
            rows.append(row)
            worst = sorted([*worst, (row, a, b)], key=lambda item: _badness(item[0]), reverse=True)[:_WORST_SHOWN]
        return one.spec.task, threshold, rows, worst


def _above(result: Result, threshold: float) -> Result:
    kept: Any = result.prediction.filter(threshold)
    return result.with_prediction(kept)


def _open(path: str | Path, confidence: float | None, providers: str | None) -> PosePredictor:
    options = dict(find_backend(path).reference)
    if providers is not None and "providers" in options:
        options["providers"] = providers
    return PosePredictor(path, confidence=confidence, **options)


def _badness(row: ImageComparison) -> float:
    return row.missed + row.extra + row.matched * (1.0 - row.similarity)


def compare_image(first: Predictions, second: Predictions, source: str = "") -> ImageComparison:
    """Pairs the people or objects of two results of one image and measures their differences.

    Raises:
        RunnerError: one result holds poses, the other detections.
    """
    if type(first) is not type(second):
        raise RunnerError("comparing an image: got poses and detections. Compare files of one model.")
    pairs = pair(first, second)
    a, b = first[pairs[:, 0]], second[pairs[:, 1]]
    similarity = a.similarity(b)
    distances = np.linalg.norm(a.points - b.points, axis=2)
    scores = np.abs(a.scores - b.scores)
    return ImageComparison(
        source=source,
        first=len(first),
        second=len(second),
        matched=len(pairs),
        px_mean=_finite(distances.mean()) if distances.size else 0.0,
        px_max=_finite(distances.max()) if distances.size else 0.0,
        similarity=float(similarity.mean()) if len(pairs) else 0.0,
        score=float(scores.max()) if len(pairs) else 0.0,
    )


def _finite(value: float) -> float:
    """Replaces NaN by infinity, so that comparisons stay ordered."""
    return float(value) if np.isfinite(value) else float("inf")


def compare_outputs(first: str | Path, second: str | Path, images: Any) -> dict[str, TensorGap]:
    """Compares the output tensors of two files on the first image with Polygraphy, where their shapes are equal.

    Args:
        first: the reference, an ``.onnx`` file or an engine.
        second: the file to compare.
        images: see :func:`trt_pose.images.sources.open_source`.

    Raises:
        MissingDependencyError: Polygraphy is not installed.
        RunnerError: a file cannot be run here.
    """
    polygraphy = require("polygraphy.comparator", "comparing tensors")
    logger = require("polygraphy.logger", "comparing tensors").G_LOGGER
    frame = next(open_source(images, Reading(strict=False)).images(), None)
    if frame is None:
        raise SourceError("comparing tensors: no image could be read. Check the images.")
    results = []
    for path in (first, second):
        with open_runner(path, **dict(find_backend(path).reference)) as runner:
            pixels, _ = place([frame.image], runner.spec.input)
            results.append(runner.run({runner.spec.input.name: pixels}))
    shared = [
        name for name, value in results[0].items() if name in results[1] and results[1][name].shape == value.shape
    ]
    one, other = (
        polygraphy.IterationResult({name: outputs[name] for name in shared}, runner_name=str(path))
        for path, outputs in zip((first, second), results, strict=True)
    )
    # Polygraphy's older versions have the second name only, and its newer ones are giving it up.
    has_new_name = hasattr(polygraphy, "SimpleCompareFunc")
    compare_func = polygraphy.SimpleCompareFunc if has_new_name else polygraphy.CompareFunc.simple
    with logger.verbosity(logger.CRITICAL):  # its log has a histogram per tensor
        gaps = compare_func(check_error_stat="max")(one, other)
    return {
        name: TensorGap(float(gap.max_absdiff), float(gap.mean_absdiff), float(gap.max_reldiff))
        for name, gap in gaps.items()
    }


def _noise(first: str | Path, second: str | Path, images: Any) -> dict[str, float]:
    if not all(Path(path).suffix.lower() == ".onnx" for path in (first, second)):
        return {}  # an engine does not show its inner tensors
    from ..quantization.snr import shared_noise  # needs the onnx package; comparing poses does not

    return shared_noise(first, second, images)
