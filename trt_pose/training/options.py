"""What a training is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UsageError
from .augment import Augmentation
from .loss import CLASSIFICATIONS, LossWeights

PRECISIONS = ("fp32", "bf16", "fp16")
_MAY_CHANGE = ("precision", "device", "workers", "evaluate_every")  # when a training goes on


@dataclass(frozen=True)
class TrainOptions:
    """The recipe; the defaults are near super-gradients' for YOLO-NAS-Pose on COCO, which changed over time.

    Attributes:
        epochs: passes over the pictures. batch: pictures per step. accumulate: steps per update of the weights.
        learning_rate: of AdamW, at its highest. warmup_steps: it rises linearly for so many updates.
        final_share: of the learning rate, at the end of the cosine.
        weight_decay: of weights with more than one axis. clip_norm: of the gradient, 0 for none.
        ema_decay: of the averaged weights, which are what is evaluated and exported; 0 for none.
        precision: of the forward pass, of :data:`PRECISIONS`; the loss is in FP32. device: torch's name; None for the
            GPU where there is one.
        workers: processes that make pictures. seed: of everything random.
        evaluate_every: epochs between evaluations.
        classification: the loss of the scores, of ``loss.CLASSIFICATIONS``. loss: weights of its parts.
        augmentation: of pictures read from files; synthetic ones are new every time.
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
                raise UsageError(f"training: got {name}={getattr(self, name)}, expected {limit} or more. Correct it.")
        for name, words in (("precision", PRECISIONS), ("classification", CLASSIFICATIONS)):
            if getattr(self, name) not in words:
                got = getattr(self, name)
                raise UsageError(f"training: got {name}={got!r}, expected one of {', '.join(words)}. Correct it.")
        for name in ("learning_rate", "final_share", "weight_decay", "clip_norm", "ema_decay"):
            value, most = getattr(self, name), 1.0 if name in ("final_share", "ema_decay") else float("inf")
            if not 0 <= value <= most or (name == "learning_rate" and value == 0):
                raise UsageError(f"training: got {name}={value}, expected a number from 0 to {most:g}. Correct it.")

    def lasting(self) -> dict[str, Any]:
        """What a training that goes on must have in common with itself."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}
