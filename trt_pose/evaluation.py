"""Accuracy of a model file on COCO annotations: OKS AP of poses, box AP of objects, by faster-coco-eval.

faster-coco-eval implements the COCO metrics (https://cocodataset.org/#keypoints-eval). Every kind of model file is
evaluated through :class:`trt_pose.predictor.PosePredictor`, by the same code as prediction.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .errors import SourceError, UnreadableWarning, UsageError
from .files import check_writable
from .images.annotations import Annotations, pose_categories
from .images.reading import Unreadable
from .optional import check_installed
from .predictor import PosePredictor
from .progress import track
from .results.sinks import write_json
from .runtime import open_runner
from .spec import ModelSpec
from .tasks import POSE, find_task

if TYPE_CHECKING:
    from .models.model import Model

# Names of the metrics, in the order of the evaluator's ``stats``.
POSE_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
BOX_METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
# Thresholds for AP, as in super-gradients' evaluation of YOLO-NAS-Pose: AP counts scores above CONFIDENCE.
CONFIDENCE, IOU, CANDIDATES, LIMIT = 0.01, 0.7, 300, 100
_CHECKPOINTS = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class ImageScore:
    """The counts of one image.

    Attributes:
        source: file name of the image.
        annotated: annotated people or objects.
        found: annotated ones that were detected, with a similarity of at least 0.5.
        missed: annotated ones that were not detected.
        extra: detections that match no annotation.
    """

    source: str
    annotated: int
    found: int
    missed: int
    extra: int


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a model file on a data set.

    Attributes:
        file: path of the model file.
        task: ``pose`` or ``detection``.
        images: number of images.
        annotated: number of annotated people or objects.
        detections: number of detections.
        metrics: metrics by name, in 0..1; None where no annotation is of that size.
        per_image: the counts of each image, the worst first.
        confidence: only detections with a score above it were counted.
    """

    file: str
    task: str
    images: int
    annotated: int
    detections: int
    metrics: dict[str, float | None]
    per_image: tuple[ImageScore, ...]
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        counts = f"{self.images} images, {self.annotated} annotated, {self.detections} detections"
        return f"{self.file}: {in_words(self.metrics)} ({counts})"


def in_words(metrics: Mapping[str, float | None]) -> str:
    """Formats metrics as ``AP 0.6984, AP50 0.8988``; metrics without a value are left out."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


def evaluate(
    file: str | Path,
    data: str | Path,
    images: str | Path,
    *,
    model: str | None = None,
    confidence: float = CONFIDENCE,
    results: Path | None = None,
    strict: bool = False,
    **options: Any,
) -> Evaluation:
    """Measures the accuracy of a model file on annotated images.

    Args:
        file: an ``.onnx`` file, an engine, a checkpoint (run by torch), or ``demo``, the packaged model.
        data: path of the COCO annotations, ``.json``.
        images: folder of the annotated images.
        model: name of the model; required for a checkpoint.
        confidence: count scores above it. AP needs nearly all detections, so a file exported with a higher threshold
            is rejected unless that threshold is given here.
        results: path of a COCO results file to write.
        strict: stop at the first image that cannot be read; else it and its annotations are left out, with a warning.
        options: options of the runner, see :func:`trt_pose.open_runner`.

    Raises:
        UsageError: the threshold is below the file's, a checkpoint is given without a model name, or the annotations
            are of other joints or classes.
        SourceError: the annotations are damaged, images are missing, or ``results`` cannot be written.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    check_evaluator()
    if results is not None:
        check_writable(results, SourceError)
    annotated = Annotations.read(data, images)
    return evaluate_file(file, annotated, model, confidence=confidence, results=results, strict=strict, **options)


def evaluate_file(
    file: str | Path,
    data: Annotations,
    model: str | None = None,
    *,
    confidence: float = CONFIDENCE,
    results: Path | None = None,
    strict: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluates a model file on annotations that are already loaded; see :func:`evaluate`."""
    with open_predictor(file, model, confidence, options) as predictor:
        return evaluate_predictor(predictor, str(file), data, confidence=confidence, results=results, strict=strict)


def evaluate_model(network: Model, data: Annotations, *, name: str = "torch", batch_size: int = 8) -> Evaluation:
    """Evaluates a network on ``data``, run by torch; see :func:`evaluate`."""
    check_evaluator()
    with _predictor_of(network, CONFIDENCE) as predictor:
        return evaluate_predictor(predictor, name, data, batch_size=batch_size)


def evaluate_predictor(
    predictor: PosePredictor,
    name: str,
    data: Annotations,
    *,
    confidence: float = CONFIDENCE,
    results: Path | None = None,
    batch_size: int | None = None,
    strict: bool = False,
) -> Evaluation:
    """Evaluates an open predictor on ``data``; see :func:`evaluate`."""
    categories = match_categories(data.truth, predictor.spec)
    rows: list[dict[str, Any]] = []
    images = data.truth["images"]
    found = predictor.stream(data.paths, batch_size=batch_size, on_error="raise" if strict else "yield")
    lost: set[Any] = set()
    for item, result in zip(images, track(found, "evaluating", len(images)), strict=True):
        if isinstance(result, Unreadable):
            lost.add(item["id"])
            warnings.warn(str(result.error), UnreadableWarning, stacklevel=2)
        else:
            rows += result.prediction.to_coco_rows(int(item["id"]), categories)
    if results is not None:
        write_json(rows, results)
    truth = _without(data.truth, lost)
    images = truth["images"]
    metrics, per_image = score(truth, rows, predictor.spec, list(categories))
    return Evaluation(
        file=name,
        task=predictor.spec.task,
        images=len(images),
        annotated=sum(item.annotated for item in per_image),
        detections=len(rows),
        metrics=metrics,
        per_image=per_image,
        confidence=confidence,
    )


def _without(truth: dict[str, Any], lost: set[Any]) -> dict[str, Any]:
    """Returns annotations without some images, whose people would count as missed. Raises SourceError for all."""
    if not lost:
        return truth
    images = [item for item in truth["images"] if item["id"] not in lost]
    total = len(truth["images"])
    if not images:
        raise SourceError("evaluating: none of the images could be read. Check the folder.")
    text = f"{len(lost)} of {total} images could not be read; the rest was evaluated, without their annotations."
    warnings.warn(text, UnreadableWarning, stacklevel=3)
    kept = [note for note in truth["annotations"] if note["image_id"] not in lost]
    return {**truth, "images": images, "annotations": kept}


def accuracy(file: str | Path, data: Annotations) -> dict[str, Any]:
    """Returns the record that ``export`` and ``build`` store: the metrics of a file at its own threshold, and the data.

    Raises:
        UsageError: the annotations are of other joints or classes.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    check_evaluator()
    with open_runner(file) as runner:
        confidence = max(CONFIDENCE, runner.spec.output.confidence_threshold or 0.0)
        predictor = PosePredictor(runner, confidence=confidence)
        found = evaluate_predictor(predictor, str(file), data, confidence=confidence)
    record = {"data": data.name, "images": found.images, "annotated": found.annotated, "confidence": confidence}
    return {**record, "metrics": found.metrics}


def check_evaluator() -> None:
    """Checks that faster-coco-eval is installed, before any work is done.

    Raises:
        MissingDependencyError: it is not installed.
    """
    check_installed("faster_coco_eval", doing="evaluating")


def open_predictor(file: str | Path, model: str | None, confidence: float, options: dict[str, Any]) -> PosePredictor:
    """Opens a model file of any kind, keeping scores above ``confidence``; see :func:`evaluate`."""
    if not 0.0 <= confidence <= 1.0:
        raise UsageError(f"--conf: got {confidence!r}, expected a number from 0 to 1.")
    if model is None and str(file) in models.MODELS and models.MODELS[str(file)].packaged and not Path(file).exists():
        return _predictor_of(models.get(str(file)), confidence)
    if Path(file).suffix.lower() not in _CHECKPOINTS:
        opened = open_runner(file, **options)
        least = opened.spec.output.confidence_threshold or 0.0
        if least > confidence:
            opened.close()
            raise UsageError(
                f"evaluating {file}: it keeps scores above {least:g} only, AP counts them down to {confidence:g}."
                f" Export it again with --conf {confidence:g}, or evaluate what it keeps with --conf {least:g}."
            )
        return PosePredictor(opened, confidence=confidence)
    if model is None:
        raise UsageError(f"evaluating {file}: a checkpoint does not name its model. Add --model, see trt-pose models.")
    if models.look_up(model).sizes_itself:  # AP takes more candidates than such a network's own selection gives
        raise UsageError(
            f"evaluating {file}: a {model} is evaluated as a file. Export it with --conf {confidence:g} and"
            " evaluate that."
        )
    return _predictor_of(models.get(model, checkpoint_path=file), confidence)


def _predictor_of(network: Model, confidence: float) -> PosePredictor:
    from .export.torch_runner import TorchRunner

    runner = TorchRunner.of_model(network, iou=IOU, confidence=confidence, candidates=CANDIDATES, limit=LIMIT)
    return PosePredictor(runner)


def match_categories(truth: Mapping[str, Any], spec: ModelSpec) -> dict[int, int]:
    """Maps category ids of the annotations to class indices of the model; a pose model has only class 0.

    Raises:
        UsageError: no category has the model's number of joints, or the name of one of its classes.
    """
    if find_task(spec.task) is POSE:
        return dict.fromkeys(pose_categories(truth, spec.skeleton.num_joints), 0)
    ids = {str(item["name"]).lower(): int(item["id"]) for item in truth["categories"]}
    matched = {ids[name.lower()]: kind for kind, name in enumerate(spec.class_names) if name.lower() in ids}
    if not matched:
        raise UsageError(
            f"evaluating {spec.model}: none of its classes ({', '.join(spec.class_names[:3])}, ...) is among the"
            f" categories ({', '.join(list(ids)[:3])}, ...). Use the data it is for."
        )
    return matched


def score(
    truth: dict[str, Any], rows: Sequence[dict[str, Any]], spec: ModelSpec, categories: list[int]
) -> tuple[dict[str, float | None], tuple[ImageScore, ...]]:
    """Computes AP and AR with faster-coco-eval, and the counts of each image, the worst first.

    Args:
        truth: COCO annotations.
        rows: rows of a COCO results file.
        spec: description of the model file.
        categories: ids of the categories to evaluate; a pose model treats them as one.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    task = find_task(spec.task)
    pose = task is POSE
    # Copies, because the evaluator marks missed annotations in place and ``truth`` is used again for the next file.
    ours = [dict(note) for note in truth["annotations"] if note["category_id"] in categories]
    if pose:  # a pose model does not distinguish categories with the same joints
        categories = categories[:1]
        for note in ours:
            note["category_id"] = categories[0]
    annotated = COCO({**truth, "annotations": ours})
    found = annotated.loadRes([dict(row) for row in rows])
    sigmas = {"kpt_oks_sigmas": list(spec.skeleton.sigmas)} if pose else {}
    evaluator = COCOeval_faster(annotated, found, task.evaluation, extra_calc=True, **sigmas)
    evaluator.params.catIds = categories
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = POSE_METRICS if pose else BOX_METRICS
    metrics = {
        name: None if value < 0 or math.isnan(value) else float(value)
        for name, value in zip(names, evaluator.stats, strict=False)
    }
    return metrics, _per_image(truth, annotated, found)


def _per_image(truth: Mapping[str, Any], annotated: Any, found: Any) -> tuple[ImageScore, ...]:
    counts = {int(item["id"]): [0, 0, 0] for item in truth["images"]}  # annotated, missed, extra
    for note in annotated.anns.values():
        if not note.get("iscrowd") and note.get("num_keypoints", 1):
            counts[note["image_id"]][0] += 1
            counts[note["image_id"]][1] += bool(note.get("fn"))
    for note in found.anns.values():
        counts[note["image_id"]][2] += bool(note.get("fp"))
    scores = [
        ImageScore(item["file_name"], notes, notes - missed, missed, extra)
        for item in truth["images"]
        for notes, missed, extra in [counts[int(item["id"])]]
    ]
    return tuple(sorted(scores, key=lambda item: (-item.missed, -item.extra, item.source)))
