"""Training options."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UsageError
from .augment import Augmentation
from .loss import CLASSIFICATIONS, LossWeights

PRECISIONS = ("fp32", "bf16", "fp16")
_MAY_CHANGE = ("precision", "device", "workers", "evaluate_every")  # when a training run is resumed


@dataclass(frozen=True)
class TrainOptions:
    """Training options; the defaults are close to super-gradients' for YOLO-NAS-Pose on COCO, which varied over time.

    Attributes:
        epochs: passes over the pictures.
        batch: pictures per step.
        accumulate: steps per weight update.
        learning_rate: peak learning rate of AdamW.
        warmup_steps: number of updates over which the learning rate rises linearly.
        final_share: share of the peak learning rate at the end of the cosine.
        weight_decay: weight decay of parameters with more than one axis.
        clip_norm: maximum norm of the gradient; 0 for no clipping.
        ema_decay: decay of the averaged weights, which are evaluated and exported; 0 for no averaging.
        precision: precision of the forward pass, one of :data:`PRECISIONS`; the loss is computed in FP32.
        device: torch device; None for the GPU if there is one, else the CPU.
        workers: number of loader processes.
        seed: seed of all randomness.
        evaluate_every: epochs between evaluations.
        classification: loss of the scores, one of ``loss.CLASSIFICATIONS``.
        loss: weights of the parts of the loss.
        augmentation: augmentation of pictures from files; synthetic pictures are not augmented.
    """

    epochs: int = 300
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    final_share: float = 0.05
    weight_decay: float = 1e-6
    clip_norm: float = 0.0
    ema_decay: float = 0.997
    precision: str = "fp32"
    device: str | None = None
    workers: int = 2
    seed: int = 0
    evaluate_every: int = 1
    classification: str = "focal"
    loss: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        least = {
            "epochs": 1,
            "batch": 1,
            "accumulate": 1,
            "warmup_steps": 0,
            "workers": 0,
            "seed": 0,
            "evaluate_every": 1,
        }
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise UsageError(f"training: got {name}={getattr(self, name)}, expected {limit} or more.")
        for name, words in (("precision", PRECISIONS), ("classification", CLASSIFICATIONS)):
            if getattr(self, name) not in words:
                got = getattr(self, name)
                raise UsageError(f"training: got {name}={got!r}, expected one of {', '.join(words)}.")
        for name in ("learning_rate", "final_share", "weight_decay", "clip_norm", "ema_decay"):
            value, most = getattr(self, name), 1.0 if name in ("final_share", "ema_decay") else float("inf")
            if not 0 <= value <= most or (name == "learning_rate" and value == 0):
                raise UsageError(f"training: got {name}={value}, expected a number from 0 to {most:g}.")

    def lasting(self) -> dict[str, Any]:
        """Returns the options that must not change when a training run is resumed."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}
