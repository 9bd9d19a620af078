"""The detection networks against super-gradients: keys, counts, numbers, final detections."""

import numpy as np
import pytest
import torch

from trt_pose import CheckpointError, models
from trt_pose.export.decode import DecodeDetections
from trt_pose.export.functions import survivors
from trt_pose.results.pairing import box_iou

from ..conftest import DATA, make_model
from ..tolerances import PUBLISHED
from .published import check_published

NAMES = tuple(name for name, info in models.MODELS.items() if info.task == "detection")
PX, SCORE = PUBLISHED.px, PUBLISHED.score


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(np.random.default_rng(123).uniform(0, 1, (2, 3, 320, 256)).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_the_published_keys_shapes_and_counts(name):
    check_published(name)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", ["yolo_nas_s", "ppyoloe_s"])
def test_outputs_equal_super_gradients(name, fused, pixels):
    model = make_model(name)
    if fused:
        model.fuse()
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    reference = np.load(DATA / f"{name}_parity.npz")
    with torch.inference_mode():
        boxes, scores = DecodeDetections(model.strides, 320, 256)(model(pixels))
    rows = reference["anchors"]
    assert np.abs(boxes[:, rows].numpy() - reference["boxes_xyxy"]).max() < PX
    assert np.abs(scores[:, rows].numpy() - reference["scores"]).max() < SCORE


@pytest.mark.parametrize("name", ["yolo_nas_s", "ppyoloe_s"])
def test_detections_equal_super_gradients(name, pixels):
    """The same objects as its NMS keeps of the best 1,000 pairs of anchor and class, at 0.25 and 0.7."""
    model = make_model(name).fuse()
    with torch.inference_mode():
        all_boxes, all_scores = DecodeDetections(model.strides, 320, 256)(model(pixels))
    for image in range(2):
        want = np.load(DATA / f"{name}_parity.npz")[f"nms{image}"]  # x1, y1, x2, y2, score, class
        boxes, scores = all_boxes[image].numpy(), all_scores[image].numpy()
        best = np.argsort(-scores, axis=None)[:1000]
        anchors, kinds = np.unravel_index(best, scores.shape)
        found = []
        for kind in range(80):
            mine = anchors[kinds == kind]
            found += [(mine[row], kind) for row in survivors(boxes[mine], scores[mine, kind], 1000, 0.7, 0.25)]
        assert len(found) == len(want) > 20
        rows, classes = np.array(found).T
        overlap = box_iou(want[:, :4].astype(np.float32), boxes[rows])
        overlap[want[:, None, 5] != classes[None]] = 0
        match = overlap.argmax(axis=1)
        assert len(set(match)) == len(want)
        assert np.abs(want[:, :4] - boxes[rows][match]).max() < PX
        assert np.abs(want[:, 4] - scores[rows, classes][match]).max() < SCORE


@pytest.mark.parametrize(("name", "count"), [("yolo_nas_s", 3), ("ppyoloe_s", 1)])
def test_checkpoints_of_any_class_count_load(name, count, tmp_path):
    first = make_model(name, num_classes=count)
    names = [f"thing {index}" for index in range(count)]
    torch.save(
        {"net": first.state_dict(), "processing_params": {"class_names": names, "conf": 0.1}}, tmp_path / "c.pth"
    )
    second = models.get(name, checkpoint_path=tmp_path / "c.pth")
    assert second.num_classes == count
    assert second.processing.class_names == tuple(names)
    assert second.processing.confidence == 0.1
    assert second.weights_sha256() == first.weights_sha256()
    with pytest.raises(CheckpointError, match=f"trained for {count} classes, 9 were asked for"):
        models.get(name, checkpoint_path=tmp_path / "c.pth", num_classes=9)
    with pytest.raises(CheckpointError, match=f"It looks like {name}"):
        models.get("yolo_nas_l" if name == "yolo_nas_s" else "ppyoloe_m", checkpoint_path=tmp_path / "c.pth")


def test_the_published_policies():
    """YOLO-NAS: RGB, longest side to 636, centred on 114; PP-YOLOE: stretched, BGR, ImageNet's numbers."""
    nas, pp = make_model("yolo_nas_s").processing, make_model("ppyoloe_s").processing
    assert (nas.input.resize_to, nas.input.padding, nas.input.pad_value) == ((636, 636), "center", 114)
    assert nas.input.normalization.channels == "RGB"
    assert (nas.confidence, nas.iou) == (0.25, 0.7)
    assert (pp.input.resize, pp.input.normalization.channels) == ("stretch", "BGR")
    assert pp.input.normalization.mean == (123.675, 116.28, 103.53)
    assert (pp.confidence, pp.iou) == (0.5, 0.65)
    assert nas.class_names[0] == "person"
    assert len(pp.class_names) == 80
