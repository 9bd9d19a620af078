"""A training from names and files: the model, its joints, what it learns from and what it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import nn

from .. import models
from ..errors import SourceError, UsageError
from ..evaluation import CONFIDENCE, check_evaluator, evaluate_model, evaluate_predictor
from ..export.plan import check_sides
from ..files import make_folder
from ..graphs.file import load, read_spec
from ..images.annotations import Annotated, pose_categories
from ..images.synthetic import Scene, SyntheticPeople, write_coco
from ..models.model import PoseModel
from ..models.yolo_nas_pose.network import VARIANTS, YoloNASPose
from ..predictor import PosePredictor
from ..quantization import QuantizeOptions
from ..skeleton import COCO, Skeleton
from ..spec import InputSpec
from .checkpoints import BEST, LATEST, read_resumable
from .data import Batches, CocoPictures, Pictures, SyntheticPictures
from .loss import LossWeights, set_priors
from .options import TrainOptions
from .qat import QuantizedPose
from .trainer import Evaluate, Progress, Trainer

FINE_TUNING = TrainOptions()
FROM_NOTHING = TrainOptions(loss=LossWeights(distance=10.0))
QAT = TrainOptions(epochs=5, learning_rate=1e-5, warmup_steps=100, clip_norm=35.0)
VALIDATION_SEED = 1  # of synthetic pictures a model is measured on: trt-pose eval's default


@dataclass(frozen=True)
class Data:
    """Pictures of one kind, from files or synthetic.

    Attributes:
        annotations: COCO keypoints, ``.json``. images: the folder of the images they name.
        synthetic: so many synthetic pictures instead; in training new ones in every epoch. seed: of these.
        scene: who is in these.
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
                "training: name annotations and the folder of their images, or synthetic pictures alone; the same of"
                " what AP is measured on."
            )

    @cached_property
    def _files(self) -> Annotated | None:
        if self.annotations is None or self.images is None:
            return None
        return Annotated.read(self.annotations, self.images)

    def pictures(self, spec: InputSpec, skeleton: Skeleton, options: TrainOptions) -> Pictures:
        """What a training reads. Raises UsageError where the joints are not those of the pictures."""
        if self._files is not None:
            return CocoPictures(self._files, spec, skeleton, options.augmentation, options.seed)
        if skeleton.names != COCO.names:
            raise UsageError("training on synthetic people: they have COCO's 17 joints, the model has others.")
        return SyntheticPictures(self.synthetic or 1, spec, self.seed, self.scene)

    def annotated(self, model: PoseModel, folder: Path) -> Annotated:
        """What ``model`` is measured on, checked to have its joints; synthetic pictures are written into ``folder``."""
        check_evaluator()
        found = self._files
        if found is None:
            people = SyntheticPeople(self.synthetic or 1, seed=self.seed, scene=self.scene)
            found = Annotated.read(write_coco(people, folder), folder)
        pose_categories(found.truth, model.num_joints)
        return found

    def skeleton(self) -> Skeleton | None:
        """The joints of the annotations; None where there are none to read."""
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
    """The network a training begins with.

    Args:
        name: of a YOLO-NAS-Pose. weights: published weights by name, a checkpoint, or None for untrained ones. Of
            weights for other joints everything but the joints' own rows is taken over.
        skeleton: the joints to learn; None for those of the weights. size: of the input, px; None for the model's own.
        seed: of what is untrained.
    """
    info = models.look_up(name)
    if size is not None:
        check_sides(*size, max(YoloNASPose.strides))
    if info.name not in VARIANTS:
        raise UsageError(f"training {info.name}: the loss is YOLO-NAS-Pose's. Name one of {', '.join(VARIANTS)}.")
    start = None
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


def take_over(start: nn.Module, model: nn.Module) -> None:
    """Copies the weights of a network for other joints: all of one shape, and of the scores' the person's own row."""
    have, own = start.state_dict(), model.state_dict()
    for key, tensor in own.items():
        if have[key].shape == tensor.shape:
            tensor.copy_(have[key])
        elif ".cls_pred." in key:
            tensor[:1].copy_(have[key][:1])


def train(
    model: PoseModel,
    data: Data,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    validation: Data | None = None,
    resume: bool = False,
) -> Progress:
    """Trains ``model`` in place and leaves checkpoints and curves in the folder ``output``.

    Args:
        model: see :func:`start_model`. data: to learn from.
        output: gets ``ckpt_latest.pth`` after every epoch, ``ckpt_best.pth`` and ``curves.csv``.
        options: the recipe. validation: what AP is measured on, by ``trt-pose eval``'s code; None measures nothing.
        resume: go on from ``ckpt_latest.pth`` in ``output``.

    Raises:
        UsageError, SourceError: what cannot be learnt from. CheckpointError: what cannot be resumed.
        TrainingError: the loss is no number any more.
    """
    options = options or TrainOptions()
    folder = Path(output)
    _check_folder(folder, resume)
    pictures = data.pictures(model.processing.input, model.processing.skeleton, options)
    evaluate = None if validation is None else _measure(model, validation, folder)
    trainer = Trainer(model, pictures, options, folder, evaluate)
    if resume:
        trainer.resume(folder / LATEST)
    return trainer.run()


def _measure(model: PoseModel, validation: Data, folder: Path) -> Evaluate:
    """The metrics of a model; its pictures are written beside the checkpoints where they are synthetic."""
    annotated = validation.annotated(model, folder / "validation")
    return lambda trained: evaluate_model(trained, annotated).metrics


def train_quantized(
    source: str | Path,
    data: Data,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    validation: Data | None = None,
    quantizing: QuantizeOptions | None = None,
    resume: bool = False,
) -> tuple[Path, Progress]:
    """Fine-tunes an exported FP32 file for INT8 and writes ``qat.onnx`` into the folder ``output``.

    Ranges are calibrated on batches of the training pictures. AP is that of the INT8 file itself, in ONNX Runtime; the
    best one is what is written.

    Args:
        source: an ``.onnx`` file of a YOLO-NAS-Pose. data, validation, resume: see :func:`train`.
        options: the recipe; :data:`QAT` when None.
        quantizing: the layers, and how the ranges are found.
    """
    options, folder = options or QAT, Path(output)
    _check_folder(folder, resume)
    proto = load(source)
    spec = read_spec(proto)
    least = spec.output.confidence_threshold
    if validation is not None and (least is None or least > CONFIDENCE):
        raise UsageError(
            f"fine-tuning {source}: AP counts scores down to {CONFIDENCE:g}, which the file does not give. Export it"
            f" again with --conf {CONFIDENCE:g}, or measure nothing."
        )
    pictures = data.pictures(spec.input, spec.skeleton, options)
    seen = (images.numpy() for images, _ in Batches(pictures, options.batch, options.seed).epoch(0))
    model = QuantizedPose(proto, seen, quantizing)
    with TemporaryDirectory(prefix="trt_pose_qat_") as scratch:
        now = Path(scratch) / "now.onnx"
        evaluate = None if validation is None else _measure_file(model, validation, folder, now)
        trainer = Trainer(model, pictures, options, folder, evaluate)
        if resume:
            trainer.resume(folder / LATEST)
        progress = trainer.run()
    model.load_state_dict(read_resumable(folder / BEST)["ema_net"])
    model.write(folder / "qat.onnx")
    return folder / "qat.onnx", progress


def _measure_file(model: PoseModel, validation: Data, folder: Path, file: Path) -> Evaluate:
    """The metrics of the INT8 file of a model."""
    annotated = validation.annotated(model, folder / "validation")

    def measure(trained: PoseModel) -> dict[str, float | None]:
        cast(QuantizedPose, trained).write(file)
        with PosePredictor(file, providers="cpu") as predictor:
            return evaluate_predictor(predictor, str(file), annotated).metrics

    return measure


def _check_folder(folder: Path, resume: bool) -> None:
    if not resume and (folder / LATEST).exists():
        raise UsageError(f"training into {folder}: a training is there. Go on with --resume, or name another folder.")
    make_folder(folder, SourceError)
