"""Training runs from names and files: the model, its joints, and the data for training and validation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import nn

from .. import models
from ..errors import SourceError, TrainingError, UsageError
from ..evaluation import CONFIDENCE, check_evaluator, evaluate_model, evaluate_predictor
from ..export.plan import check_sides
from ..files import exclusive, make_folder, temporary_folder
from ..graphs.file import load, read_spec
from ..images.annotations import Annotations, pose_categories
from ..images.synthetic import Scene, SyntheticPeople
from ..images.synthetic_files import write_coco
from ..models.model import PoseModel
from ..models.yolo_nas_pose.network import VARIANTS, YoloNASPose
from ..predictor import PosePredictor
from ..quantization import QuantizeOptions
from ..skeleton import COCO, Skeleton
from ..spec import InputSpec
from .checkpoints import BEST, LATEST, read_resumable
from .curves import drawn_at_the_end
from .data import Batches, CocoPictures, Pictures, SyntheticPictures
from .loss import LossWeights, set_priors
from .options import TrainOptions
from .qat import QuantizedPose
from .trainer import Evaluate, Progress, Trainer

FINE_TUNING = TrainOptions()
FROM_NOTHING = TrainOptions(loss=LossWeights(distance=10.0))
QAT = TrainOptions(epochs=5, learning_rate=1e-5, warmup_steps=100, clip_norm=35.0)
VALIDATION_SEED = 1  # seed of synthetic validation pictures, the default of trt-pose eval


@dataclass(frozen=True)
class TrainData:
    """Pictures of one kind, from files or synthetic.

    Attributes:
        annotations: COCO keypoints, ``.json``.
        images: folder of the annotated images.
        synthetic: number of synthetic pictures to use instead of files; in training they are new in every epoch.
        seed: seed of the synthetic pictures.
        scene: number and size of the people in synthetic pictures.

    Raises:
        UsageError: neither or both of files and synthetic pictures are given, or one of the two paths is missing.
    """

    annotations: Path | None = None
    images: Path | None = None
    synthetic: int | None = None
    seed: int = 0
    scene: Scene | None = None

    def __post_init__(self) -> None:
        files = (self.annotations is None, self.images is None)
        if files not in ((True, True), (False, False)) or all(files) == (self.synthetic is None):
            raise UsageError(
                "training data: give --data with --images, or --synthetic, not both. The same holds for --val-data,"
                " --val-images and --val-synthetic."
            )

    @cached_property
    def _files(self) -> Annotations | None:
        if self.annotations is None or self.images is None:
            return None
        return Annotations.read(self.annotations, self.images)

    def pictures(self, spec: InputSpec, skeleton: Skeleton, options: TrainOptions) -> Pictures:
        """Returns the training data. Raises UsageError when the pictures have other joints."""
        if self._files is not None:
            return CocoPictures(self._files, spec, skeleton, options.augmentation, options.seed)
        if skeleton.names != COCO.names:
            raise UsageError("training on synthetic people: they have COCO's 17 joints, the model has others.")
        return SyntheticPictures(self.synthetic or 1, spec, self.seed, self.scene)

    def annotated(self, model: PoseModel, folder: Path) -> Annotations:
        """Returns the validation data for ``model``; synthetic pictures are written into ``folder``.

        Raises:
            UsageError: the annotations have another number of joints.
        """
        check_evaluator()
        found = self._files
        if found is None:
            people = SyntheticPeople(self.synthetic or 1, seed=self.seed, scene=self.scene)
            found = Annotations.read(write_coco(people, folder), folder)
        pose_categories(found.truth, model.num_joints)
        return found

    def skeleton(self) -> Skeleton | None:
        """Returns the joints of the annotations; None for synthetic pictures.

        Raises:
            UsageError: no annotation has keypoints.
        """
        if self._files is None:
            return None
        truth = self._files.truth
        for note in truth["annotations"]:
            count = len(note.get("keypoints", ())) // 3
            if count:
                category = next(item for item in truth["categories"] if item["id"] == note["category_id"])
                return Skeleton.from_category(category, count)
        raise UsageError(f"reading {self.annotations}: no annotation has keypoints. Use the data of people with them.")


def start_model(
    name: str, weights: str | None, skeleton: Skeleton | None, size: tuple[int, int] | None, seed: int = 0
) -> PoseModel:
    """Returns the network to train.

    Args:
        name: name of a YOLO-NAS-Pose.
        weights: name of published weights, path of a checkpoint, or ``none`` for untrained weights. None means those in
            the package (``demo``), and untrained weights of other models. From weights for other joints, everything
            except the rows of the joints is copied.
        skeleton: the joints to learn; None for those of the weights, or COCO's without weights.
        size: (height, width) of the input, px; None for the model's own.
        seed: seed of the untrained weights.

    Raises:
        UsageError: the model is not a YOLO-NAS-Pose, or the size does not fit its strides.
    """
    info = models.look_up(name)
    if size is not None:
        check_sides(*size, max(YoloNASPose.strides))
    if info.name not in VARIANTS:
        raise UsageError(f"training {info.name}: the loss is YOLO-NAS-Pose's. Name one of {', '.join(VARIANTS)}.")
    start, weights = None, starting_weights(name, weights)
    if weights is not None:
        published = weights in info.weights
        start = models.get(
            name, pretrained_weights=weights if published else None, checkpoint_path=None if published else weights
        )
    wanted = skeleton or (start.processing.skeleton if start else COCO)
    if start is not None and start.processing.skeleton.num_joints == wanted.num_joints:
        model = cast(PoseModel, start)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = YoloNASPose(info.name, wanted.num_joints)
            set_priors(model)
        if start is not None:
            take_over(start, model)
    spec = model.processing.input if size is None else model.processing.input.with_size(*size)
    model.processing = replace(model.processing, input=spec, skeleton=wanted)
    return model


def starting_weights(name: str, weights: str | None) -> str | None:
    """Returns the weights that a training starts from; see :func:`start_model`. None is untrained."""
    card = models.look_up(name)
    if weights is None and card.packaged:
        return card.weights[0]
    return None if weights == "none" else weights


def usual_options(name: str, weights: str | None) -> TrainOptions:
    """Returns the options for these starting weights: of fine-tuning, or of a training from nothing."""
    return FROM_NOTHING if starting_weights(name, weights) is None else FINE_TUNING


def take_over(start: nn.Module, model: nn.Module) -> None:
    """Copies the weights of a network for other joints.

    All tensors with equal shapes are copied, and the person's row of the score heads.
    """
    have, own = start.state_dict(), model.state_dict()
    for key, tensor in own.items():
        if have[key].shape == tensor.shape:
            tensor.copy_(have[key])
        elif ".cls_pred." in key:
            tensor[:1].copy_(have[key][:1])


def train(
    model: PoseModel,
    data: TrainData,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    validation: TrainData | None = None,
    resume: bool = False,
) -> Progress:
    """Trains ``model`` in place and writes checkpoints and curves into the folder ``output``.

    Args:
        model: see :func:`start_model`.
        data: the training data.
        output: folder for ``ckpt_latest.pth`` (every epoch), ``ckpt_best.pth``, ``curves.csv`` and ``curves.png``.
        options: the training options; None takes the defaults.
        validation: data for AP, measured with the code of ``trt-pose eval``; None for no evaluation.
        resume: whether to resume from ``ckpt_latest.pth`` in ``output``.

    Returns:
        The final state of the run, with the best AP and its metrics.

    Raises:
        UsageError: the data does not fit the model, or ``output`` already has a training run.
        SourceError: the data cannot be read, or ``output`` cannot be written.
        CheckpointError: the training run cannot be resumed.
        TrainingError: the loss or a weight is not finite.
    """
    options = options or TrainOptions()
    folder = Path(output)
    with _own(folder, resume):
        pictures = data.pictures(model.processing.input, model.processing.skeleton, options)
        evaluate = None if validation is None else _measure(model, validation, folder)
        trainer = Trainer(model, pictures, options, folder, evaluate)
        if resume:
            trainer.resume(folder / LATEST)
        with drawn_at_the_end(folder):
            return trainer.run()


def _measure(model: PoseModel, validation: TrainData, folder: Path) -> Evaluate:
    """Returns a function that evaluates a model; synthetic pictures are written beside the checkpoints."""
    annotated = validation.annotated(model, folder / "validation")
    return lambda trained: evaluate_model(trained, annotated).metrics


def train_quantized(
    source: str | Path,
    data: TrainData,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    validation: TrainData | None = None,
    quantizing: QuantizeOptions | None = None,
    resume: bool = False,
) -> tuple[Path, Progress]:
    """Fine-tunes an exported FP32 file for INT8 and writes ``qat.onnx`` into the folder ``output``.

    Ranges are calibrated on batches of the training pictures. AP is measured on the INT8 file in ONNX Runtime, and the
    weights with the best AP are written. Also raises the errors of :func:`train`.

    Args:
        source: path of an ``.onnx`` file of a YOLO-NAS-Pose.
        data: the training data.
        output: folder for ``qat.onnx`` and the files of :func:`train`.
        options: the training options; None takes :data:`QAT`.
        validation: data for AP; None for no evaluation.
        quantizing: the layers to quantize, and the calibration.
        resume: whether to resume from ``ckpt_latest.pth`` in ``output``.

    Returns:
        The path of ``qat.onnx`` and the final state of the run.

    Raises:
        UsageError: the file cannot be fine-tuned, or its confidence threshold is too high to measure AP.
        CalibrationError: the calibration failed.
    """
    options, folder = options or QAT, Path(output)
    with _own(folder, resume):
        proto = load(source)
        spec = read_spec(proto)
        least = spec.output.confidence_threshold
        if validation is not None and (least is None or least > CONFIDENCE):
            raise UsageError(
                f"fine-tuning {source}: AP counts scores down to {CONFIDENCE:g}, which the file does not give. Export"
                f" it again with --conf {CONFIDENCE:g}, or measure nothing."
            )
        pictures = data.pictures(spec.input, spec.skeleton, options)
        seen = (images.numpy() for images, _ in Batches(pictures, options.batch, options.seed).epoch(0))
        model = QuantizedPose(proto, seen, quantizing)
        with temporary_folder("qat") as scratch:
            now = scratch / "now.onnx"
            evaluate = None if validation is None else _measure_file(model, validation, folder, now)
            trainer = Trainer(model, pictures, options, folder, evaluate)
            if resume:
                trainer.resume(folder / LATEST)
            with drawn_at_the_end(folder):
                progress = trainer.run()
        model.load_state_dict(read_resumable(folder / BEST)["ema_net"])
        model.write(folder / "qat.onnx")
        return folder / "qat.onnx", progress


def _measure_file(model: PoseModel, validation: TrainData, folder: Path, file: Path) -> Evaluate:
    """Returns a function that evaluates the INT8 file of a model."""
    annotated = validation.annotated(model, folder / "validation")

    def measure(trained: PoseModel) -> dict[str, float | None]:
        cast(QuantizedPose, trained).write(file)
        with PosePredictor(file, providers="cpu") as predictor:
            return evaluate_predictor(predictor, str(file), annotated).metrics

    return measure


@contextmanager
def _own(folder: Path, resume: bool) -> Iterator[None]:
    """Makes the output folder, and keeps other runs out of it."""
    if not resume and (folder / LATEST).exists():
        raise UsageError(f"training into {folder}: a training is there. Go on with --resume, or name another folder.")
    with exclusive(make_folder(folder, SourceError), TrainingError):
        yield
