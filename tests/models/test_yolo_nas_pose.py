"""The networks against super-gradients: keys, counts, numbers."""

import numpy as np
import pytest
import torch

from trt_pose import models
from trt_pose.export.decode import DecodePoses

from ..conftest import DATA, make_model, make_tiny
from ..tolerances import PUBLISHED
from .published import check_published

NAMES = ("yolo_nas_pose_n", "yolo_nas_pose_s", "yolo_nas_pose_m", "yolo_nas_pose_l")
# The reference differs from itself by this much, fused against un-fused: 9e-4 px, 8e-6 score.
PX, SCORE = PUBLISHED.px, PUBLISHED.score


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_the_published_keys_shapes_and_counts(name):
    check_published(name)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_outputs_equal_super_gradients(name, fused):
    model = make_model(name)
    if fused:
        model.fuse()
    reference = np.load(DATA / f"{name}_parity.npz")
    pixels = np.random.default_rng(123).uniform(0, 1, (2, 3, 320, 256)).astype(np.float32)
    with torch.inference_mode():
        boxes, scores, joints = DecodePoses(17, model.strides, 320, 256)(model(torch.from_numpy(pixels)))
    rows = reference["anchors"]
    assert np.abs(boxes[:, rows].numpy() - reference["boxes_xyxy"]).max() < PX
    assert np.abs(scores[:, rows].numpy() - reference["scores"]).max() < SCORE
    assert np.abs(joints[:, rows, :, :2].numpy() - reference["joints_xy"]).max() < PX
    assert np.abs(joints[:, rows, :, 2].numpy() - reference["joint_scores"]).max() < SCORE


@pytest.mark.parametrize("name", NAMES)
def test_fused_equals_unfused(name):
    model = make_model(name)
    x = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    decode = DecodePoses(17, model.strides, 96, 64)
    with torch.inference_mode():
        before, after = decode(model(x)), decode(model.fuse()(x))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    for (want, got), tolerance in zip(zip(before, after, strict=True), (1e-3, 1e-5, 1e-3), strict=True):
        assert (want - got).abs().max() < tolerance


@pytest.mark.parametrize("joints", [1, 14, 20, 133])
def test_any_number_of_joints(joints):
    logits, distances, offsets = make_tiny(joints)(torch.zeros(2, 3, 64, 96))
    assert (logits.shape[1], distances.shape[1], offsets.shape[1]) == (1 + joints, 68, 2 * joints)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 320), (416, 96)])
def test_any_size_that_is_a_multiple_of_32(tiny, height, width):
    anchors = sum((height // s) * (width // s) for s in (8, 16, 32))
    assert tiny(torch.zeros(1, 3, height, width))[0].shape == (1, 18, anchors)
    assert DecodePoses(17, tiny.strides, height, width).num_anchors == anchors


def test_seed_decides_the_initial_weights():
    with pytest.warns(UserWarning, match="meaningless"):
        first, again, other = (models.get("yolo_nas_pose_n", seed=seed) for seed in (0, 0, 1))
    assert first.weights_sha256() == again.weights_sha256() != other.weights_sha256()


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.warns(UserWarning):
        models.get("yolo_nas_pose_n")
    assert torch.equal(torch.rand(3), expected)


def test_names_may_be_enum_members():
    from trt_pose import Models

    with pytest.warns(UserWarning):
        model = models.get(Models.YOLO_NAS_POSE_N, num_classes=14)
    assert (model.name, model.num_joints) == ("yolo_nas_pose_n", 14)
    assert model.processing.skeleton.names[-1] == "neck"  # CrowdPose's fourteen
