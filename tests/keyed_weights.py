"""Deterministic weights made of nothing but the names in a state dict.

Any implementation with the same keys and shapes reproduces them, so the outputs of two programs can be compared without
exchanging a checkpoint. The reference outputs under tests/data were made with these.
"""

import re
import zlib

import numpy as np
import torch


def keyed_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values of one tensor: its name seeds the generator, its kind decides the distribution."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    predictor = re.search(r"\.(cls_pred|reg_pred|pose_pred|pred_cls|pred_reg)\.", key)
    # Networks with SiLU lose their signal with what suits ReLU; which they are is in the keys.
    silu = re.match(r"backbone\.(stages\.\d|stem\.conv\d)|neck\.(fpn|pan)_|head\.", key) is not None
    if leaf == "alpha":
        values = rng.uniform(0.8, 1.2, shape) * 0.5
    elif leaf == "running_mean":
        values = rng.standard_normal(shape) * 0.1
    elif leaf == "running_var":
        values = rng.uniform(0.5, 1.5, shape) * (2.2 if ".post_bn." in key else 1.0)
    elif leaf == "weight" and len(shape) > 1:
        branch = re.search(r"\.branch_[13]x[13]\.", key)
        gain = (0.45 if silu else 0.65) if branch else (0.8 if silu else 0.85)
        if predictor:
            gain = (1.8 if silu else 2.5) if "cls" in predictor[1] else 2.0
        values = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:])) * gain
    elif leaf == "weight":
        values = rng.uniform(0.8, 1.2, shape)
    elif leaf == "bias":
        values = rng.standard_normal(shape) * 0.05
        if silu and ".bn." in key:
            values = values * 6.0 + 0.2
        if predictor and "cls" in predictor[1]:
            values = values - (5.0 if shape[0] > 40 else 1.5)  # 80 classes, or a person and its joints
    else:
        raise KeyError(key)
    return values.astype(np.float32)


@torch.no_grad()
def apply_keyed_weights(model: torch.nn.Module) -> torch.nn.Module:
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(keyed_array(key, tuple(tensor.shape))))
    return model
