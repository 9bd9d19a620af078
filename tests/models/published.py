"""What super-gradients' state dicts hold, per model: tests/data/*_keys.json.gz."""

import gzip
import json

import torch

from trt_pose import models
from trt_pose.models import families

from ..conftest import DATA


def check_published(name):
    """Keys, shapes, order and counts of a network equal the published ones."""
    task = models.MODELS[name].task
    file = "yolo_nas_pose_keys.json.gz" if task == "pose" else "detection_keys.json.gz"
    published = json.loads(gzip.decompress((DATA / file).read_bytes()))[name]
    with torch.device("meta"):  # shapes only
        model = families.make(name)
        fused = sum(p.numel() for p in families.make(name).eval().fuse().parameters())
    assert [[key, list(t.shape)] for key, t in model.state_dict().items()] == published["state_dict"]
    used = sum(p.numel() for key, p in model.named_parameters() if ".rbr_reparam." not in key)
    assert used == published["parameters"] == models.MODELS[name].parameters
    assert fused == published["parameters_fused"]
    assert models.MODELS[name].gmacs == published["gmacs_640"]
