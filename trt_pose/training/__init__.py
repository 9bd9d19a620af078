"""Training of YOLO-NAS-Pose, and fine-tuning of exported files for INT8. Needs torch."""

from __future__ import annotations

from ..optional import needed

with needed("training"):
    from .options import TrainOptions
    from .train import (
        FINE_TUNING,
        FROM_NOTHING,
        QAT,
        VALIDATION_SEED,
        TrainData,
        start_model,
        starting_weights,
        train,
        train_quantized,
        usual_options,
    )  # fmt: skip

__all__ = [
    "FINE_TUNING", "FROM_NOTHING", "QAT", "VALIDATION_SEED", "TrainData", "TrainOptions", "start_model",
    "starting_weights", "train", "train_quantized", "usual_options",
]  # fmt: skip
