"""Resumable training loop for pose models in plain torch: AdamW, cosine schedule, EMA, mixed precision."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import SourceError, TrainingError
from ..export.decode import DecodePoses
from ..export.plan import plan_device
from ..export.preprocess import Normalize
from ..files import make_folder, write_atomically
from ..limits import check_memory
from ..models.model import PoseModel
from ..progress import progress_steps
from . import checkpoints
from .curves import CSV
from .data import Batches, Pictures
from .loss import PARTS, PoseLoss
from .options import TrainOptions

Evaluate = Callable[[PoseModel], dict[str, float | None]]
_LOG = logging.getLogger(__name__)
_TRAINED_BYTES = 1000  # memory for each pixel that the smallest network takes in training


@dataclass
class Progress:
    """State of a training run: completed epochs, the best AP so far and the metrics of that evaluation."""

    epoch: int = 0
    best: float = -1.0
    metrics: dict[str, float | None] | None = None


class Trainer:
    """A training run of one model.

    Args:
        model: the model to train, changed in place; it has the averaged weights after :meth:`run`.
        pictures: the training data.
        options: the training options.
        output: folder for ``ckpt_latest.pth`` (every epoch), ``ckpt_best.pth`` and ``curves.csv``.
        evaluate: function from the model to its metrics, of which ``AP`` selects the best checkpoint. With None there
            is no evaluation, and the last checkpoint is the best.

    Raises:
        SourceError: the folder cannot be written.
    """

    def __init__(
        self,
        model: PoseModel,
        pictures: Pictures,
        options: TrainOptions,
        output: str | Path,
        evaluate: Evaluate | None = None,
    ) -> None:
        self.model, self.options, self.output = model, options, Path(output)
        self.device = plan_device(options.device) or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._evaluate = evaluate
        self._batches = Batches(
            pictures, options.batch, options.seed, options.workers, pinned=self.device.type == "cuda"
        )
        size = model.processing.input
        if self.device.type == "cpu":
            what = f"training: batches of {options.batch} images of {size.height} x {size.width}"
            check_memory(options.batch * size.height * size.width * _TRAINED_BYTES, what, TrainingError)
        model.to(self.device).train()
        decode = DecodePoses(model.num_joints, model.strides, size.height, size.width).to(self.device)
        sigmas = torch.tensor(model.processing.skeleton.sigmas, device=self.device)
        self._loss = PoseLoss(decode, sigmas, options.loss, classification=options.classification)
        self._normalize = Normalize(size.normalization).to(self.device)
        self._optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), options.learning_rate)
        self._schedule = LambdaLR(self._optimizer, schedule(options, self.updates_per_epoch))
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "fp16")
        self._average = AveragedModel(model, multi_avg_fn=_averaging(options.ema_decay), use_buffers=True)
        self.progress = Progress()
        self._recipe = {**options.lasting(), "pictures": len(pictures), "model": model.name, "weights": model.weights}
        self._recipe |= {"input": [size.height, size.width], "joints": list(model.processing.skeleton.names)}
        make_folder(self.output, SourceError)

    @property
    def updates_per_epoch(self) -> int:
        """Number of weight updates per epoch."""
        return math.ceil(len(self._batches) / self.options.accumulate)

    @property
    def averaged(self) -> PoseModel:
        """The model with the averaged weights."""
        return cast(PoseModel, self._average.module)

    def run(self) -> Progress:
        """Trains from the current epoch to the last. Raises TrainingError when the loss or a weight is not finite."""
        while self.progress.epoch < self.options.epochs:
            begin = time.perf_counter()
            parts = self._epoch(self.progress.epoch)
            self.progress.epoch += 1
            self._check_weights()
            self._save(parts, time.perf_counter() - begin)
        self.model.load_state_dict(self.averaged.state_dict())
        self.model.eval()
        return self.progress

    def _epoch(self, number: int) -> dict[str, float]:
        """Trains one epoch and returns the mean of each part of the loss."""
        self.model.train()
        totals = torch.zeros(len(PARTS), device=self.device)
        text = f"epoch {number + 1}/{self.options.epochs}"
        with progress_steps(text, len(self._batches)) as show:
            for step, (images, truth) in enumerate(self._batches.epoch(number), 1):
                with self._autocast():
                    heads = self.model(self._normalize(images.to(self.device, non_blocking=True)))
                parts = self._loss(heads, truth.to(self.device))
                values = torch.stack([parts[name] for name in PARTS])
                loss = self._scaler.scale(values.sum() / self._steps_of(step))
                loss.backward()  # type: ignore[no-untyped-call]
                totals += values.detach()
                if step % self.options.accumulate == 0 or step == len(self._batches):
                    self._update()
                if step % 10 == 0 or step == len(self._batches):
                    mean = self._check(totals).sum().item() / step
                    show(step, f"{text}, loss {mean:.3f}")
        return dict(zip(PARTS, (totals / len(self._batches)).tolist(), strict=True))

    def _steps_of(self, step: int) -> int:
        """Returns the number of steps in the update of ``step``, counted from 1; the last update may have fewer."""
        whole = len(self._batches) // self.options.accumulate * self.options.accumulate
        return self.options.accumulate if step <= whole else len(self._batches) - whole

    def _autocast(self) -> AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.options.precision, torch.bfloat16)
        return torch.autocast(self.device.type, kind, enabled=self.options.precision != "fp32")

    def _update(self) -> None:
        if self.options.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._scaler.get_scale() >= scale:  # otherwise FP16 overflowed and the update was skipped
            self._schedule.step()
            self._average.update_parameters(self.model)

    def _check(self, totals: Tensor) -> Tensor:
        if not torch.isfinite(totals).all():
            raise TrainingError(
                f"training, epoch {self.progress.epoch + 1}: the loss became NaN. Resume with --resume --precision"
                " fp32, or start again with a lower --lr or with --clip 35."
            )
        return totals

    def _check_weights(self) -> None:
        """Raises TrainingError when a weight is not finite, so that no checkpoint contains such weights."""
        for value in self.model.parameters():
            self._check(value.detach())

    def _metrics(self) -> dict[str, float | None] | None:
        due = self.progress.epoch % self.options.evaluate_every == 0 or self.progress.epoch == self.options.epochs
        if self._evaluate is None or not due:
            return None
        return self._evaluate(self.averaged.eval())

    def _save(self, parts: dict[str, float], seconds: float) -> None:
        """Writes the checkpoint, then evaluates, so that a failed evaluation does not lose the epoch."""
        checkpoints.write(self.output / checkpoints.LATEST, self.state())
        metrics = self._metrics()
        reached = -1.0 if metrics is None else metrics.get("AP") or 0.0
        best = self.output / checkpoints.BEST
        if reached > self.progress.best or not best.exists() or (self._evaluate is None and self.progress.best < 0):
            known = (self.progress.best, self.progress.metrics)
            self.progress.best, self.progress.metrics = reached, metrics
            state = self.state()
            checkpoints.write(best, state)
            if known != (reached, metrics):
                checkpoints.write(self.output / checkpoints.LATEST, state)
        row = {"epoch": self.progress.epoch, "learning_rate": self._schedule.get_last_lr()[0], "seconds": seconds}
        row |= {f"loss_{name}": value for name, value in parts.items()}
        row |= {name: value for name, value in (metrics or {}).items() if value is not None}
        _append(self.output / CSV, row)
        text = f"epoch {self.progress.epoch}/{self.options.epochs}: loss {sum(parts.values()):.4f}"
        reached_text = "" if metrics is None else f", AP {reached:.4f} (best {self.progress.best:.4f})"
        _LOG.info("%s%s, %.1f s", text, reached_text, seconds)

    def state(self) -> dict[str, Any]:
        """Returns a checkpoint in super-gradients' layout."""
        return {
            **checkpoints.layout(self.model, self.averaged, self.progress.epoch, self.progress.best),
            "metrics": {"tracked_metric_name": "AP", "valid": self.progress.metrics or {}, "train": {}},
            "optimizer_state_dict": self._optimizer.state_dict(),
            "scaler_state_dict": self._scaler.state_dict(),
            "torch_scheduler_state_dict": self._schedule.state_dict(),
            "ema_updates": int(self._average.n_averaged),
            "recipe": self._recipe,
        }

    def resume(self, path: str | Path) -> None:
        """Restores the state of a ``ckpt_latest.pth``. Raises CheckpointError for other files or another recipe."""
        record = checkpoints.read_resumable(path)
        checkpoints.check_recipe(path, record["recipe"], self._recipe)
        try:
            self.model.load_state_dict(record["net"])
            self.averaged.load_state_dict(record["ema_net"])
            self._average.n_averaged.fill_(record["ema_updates"])
            self._optimizer.load_state_dict(record["optimizer_state_dict"])
            self._schedule.load_state_dict(record["torch_scheduler_state_dict"])
            if self._scaler.is_enabled() and record["scaler_state_dict"]:
                self._scaler.load_state_dict(record["scaler_state_dict"])
            self.progress = Progress(int(record["epoch"]), float(record["acc"]), record["metrics"]["valid"] or None)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise checkpoints.not_resumable(path, error) from error


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns parameter groups: weight decay for weights, none for biases and norms (parameters with one axis).

    Unused ``rbr_reparam`` placeholders are excluded.
    """
    named = [item for item in model.named_parameters() if ".rbr_reparam." not in item[0]]
    return [
        {"params": [value for _, value in named if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for _, value in named if value.ndim <= 1], "weight_decay": 0.0},
    ]


def schedule(options: TrainOptions, updates_per_epoch: int) -> Callable[[int], float]:
    """Returns a function from update to share of the learning rate: linear warmup, then cosine to ``final_share``."""
    last = max(options.epochs * updates_per_epoch - 1, 1)
    rise = min(options.warmup_steps, last)

    def share(update: int) -> float:
        if update < rise:
            return (update + 1) / (rise + 1)
        done = min((update - rise) / max(last - rise, 1), 1.0)
        return options.final_share + (1 - options.final_share) * (1 + math.cos(math.pi * done)) / 2

    return share


def _averaging(decay: float) -> Callable[..., None]:
    """Returns an EMA function whose decay rises with the updates n: ``min(decay, (1 + n) / (10 + n))``.

    The lower decay at the beginning reduces the influence of the initial weights.
    """

    def average(averaged: Any, current: Any, updates: Tensor | int) -> None:
        count = int(updates)
        keep = min(decay, (1 + count) / (10 + count))
        get_ema_multi_avg_fn(keep)(averaged, current, updates)  # type: ignore[no-untyped-call]

    return average


def _append(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a CSV file by an atomic rewrite; the row may have new columns."""
    rows: list[dict[str, Any]] = (
        [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())] if path.exists() else []
    )
    names = list(dict.fromkeys(name for item in (*rows, row) for name in item))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_atomically(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"), SourceError)
