"""Decoding and selection in torch against loops in NumPy."""

import numpy as np
import pytest
import torch

from trt_pose.export.decode import DecodePoses
from trt_pose.export.format_modules import Flatten
from trt_pose.export.functions import KeepScores, TopK, box_iou
from trt_pose.export.graph import assemble
from trt_pose.export.preprocess import Cast, Normalize
from trt_pose.export.select import SelectPoses
from trt_pose.operators.selection import Selection
from trt_pose.spec import Normalization

from .. import reference
from ..conftest import make_tiny


def heads(batch, anchors, joints, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, anchors, generator=g) * 2 for channels in (1 + joints, 68, 2 * joints))


@pytest.mark.parametrize("joints", [1, 5])
def test_decode_equals_loops(joints):
    raw = heads(1, 84, joints)
    boxes, scores, found = DecodePoses(joints, (8, 16, 32), 64, 64)(raw)
    want = reference.decode(*(part[0].numpy() for part in raw), 64, 64, (8, 16, 32))  # type: ignore[call-arg]
    np.testing.assert_allclose(boxes[0], want[0], atol=1e-4)
    np.testing.assert_allclose(scores[0, :, 0], want[1], atol=1e-6)
    np.testing.assert_allclose(found[0], want[2], atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "selection",
    [
        Selection(0.5, 0.7, 84, 84),
        Selection(0.0, 0.7, 84, 84),
        Selection(0.3, 0.2, 40, 7),
        Selection(0.9, 0.0, 20, 20),
        Selection(1.0, 0.7, 84, 84),
        Selection(0.2, 1.0, 30, 30),
    ],
    ids=str,
)
def test_selection_equals_loops(selection, seed):
    decode = DecodePoses(3, (8, 16, 32), 64, 64)
    raw = heads(2, 84, 3, seed)
    count, boxes, scores, joints = SelectPoses(decode, selection)(raw)
    all_boxes, all_scores, all_joints = (part.numpy() for part in decode(raw))
    for image in range(2):
        kept = reference.select(
            all_boxes[image], all_scores[image, :, 0], all_joints[image], selection.confidence, selection.iou,
            selection.candidates, selection.limit,
        )  # fmt: skip
        assert int(count[image, 0]) == len(kept)
        np.testing.assert_allclose(boxes[image, : len(kept)], all_boxes[image][kept], atol=1e-4)
        np.testing.assert_array_equal(scores[image, : len(kept)], all_scores[image, kept, 0])
        np.testing.assert_allclose(joints[image, : len(kept)], all_joints[image][kept], atol=1e-4)
        for rest in (boxes, scores, joints):
            assert not rest[image, len(kept) :].any()


def test_flat_rows_are_the_batch_rows():
    decode = DecodePoses(3, (8, 16, 32), 64, 64)
    raw = heads(3, 84, 3)
    count, boxes, scores, joints = SelectPoses(decode, Selection(0.6, 0.5, 84, 50))(raw)
    (flat,) = Flatten()((count, boxes, scores, joints))
    rows = [
        [image, *boxes[image, row].tolist(), scores[image, row].item(), *joints[image, row].flatten().tolist()]
        for image in range(3)
        for row in range(int(count[image, 0]))
    ]
    np.testing.assert_array_equal(flat.numpy(), np.array(rows, np.float32))


def test_nothing_found_is_empty_in_both_formats():
    decode, raw = DecodePoses(3, (8, 16, 32), 64, 64), heads(2, 84, 3)
    count, *padded = SelectPoses(decode, Selection(1.0, 0.7, 84, 10))(raw)
    assert count.tolist() == [[0], [0]]
    assert not any(part.any() for part in padded)
    (flat,) = Flatten()((count, *padded))
    assert flat.shape == (0, 15)


def test_equal_scores_keep_the_order_of_their_index():
    values, indices = TopK.apply(torch.tensor([[0.5, 0.9, 0.5, 0.9, 0.5]]), 4)
    assert indices.tolist() == [[1, 3, 0, 2]]
    assert torch.equal(values, torch.tensor([[0.9, 0.9, 0.5, 0.5]]))


def test_scores_that_are_not_numbers_are_never_kept():
    boxes = torch.tensor([[[0.0, 0, 1, 1], [5, 5, 6, 6]]])
    kept = KeepScores.apply(boxes, torch.tensor([[float("nan"), 0.4]]), 2, 0.5, 0.1)
    assert torch.equal(kept, torch.tensor([[0.0, 0.4]]))


def test_iou_by_hand():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 0, 0], [4, 4, 4, 9], [10, 10, 11, 11]], np.float32)
    overlap = box_iou(boxes)
    assert overlap[0, 1].item() == pytest.approx(1 / 3)
    assert overlap[0, 2].item() == 1.0  # corners in the other order
    assert overlap[3].sum().item() == 0.0  # no area, not even with itself
    assert overlap[0, 4].item() == 0.0


@pytest.mark.parametrize(
    "normalization",
    [
        Normalization("BGR"),
        Normalization("RGB", std=(1.0, 2.0, 4.0)),
        Normalization("BGR", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
    ids=["bgr", "scale", "mean"],
)
def test_folded_normalization_equals_the_explicit_one(normalization, rng):
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8))
    normalize = Normalize(normalization)
    channels = image.numpy().astype(np.float64)[:, :: -1 if normalization.channels == "BGR" else 1]
    mean, std = (np.reshape(part, (1, 3, 1, 1)) for part in (normalization.mean, normalization.std))
    np.testing.assert_allclose(normalize(image), (channels - mean) / std, rtol=1e-5, atol=1e-5)
    before = conv(normalize(image))
    folded = normalize.folded_into(conv)
    assert isinstance(folded, Cast) == (not any(normalization.mean))
    np.testing.assert_allclose(conv(folded(image)).detach(), before.detach(), atol=1e-4)


def test_assembling_leaves_the_model_alone():
    model = make_tiny()
    digest, keys = model.weights_sha256(), list(model.state_dict())
    assemble(model, 64, 64, selection=Selection())
    model.fuse()
    fused = model.weights_sha256()
    assemble(model, 64, 64, selection=Selection())  # folds the normalization into a copy
    assert model.weights_sha256() == fused
    assert digest != fused
    assert keys != list(model.state_dict())


def test_the_decode_has_no_matrix_product(tiny_plugin_onnx):
    """TensorRT may compute those in TF32, whose mantissa is a quarter of a pixel of a distance."""
    import onnx

    operators = {node.op_type for node in onnx.load(tiny_plugin_onnx).graph.node}
    assert "Softmax" in operators
    assert not operators & {"MatMul", "Gemm"}
