"""A Keypoint R-CNN as a user fine-tunes it, once for all tests that take it: its export takes a while."""

import json
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from trt_pose import models
from trt_pose.models.keypoint_rcnn.network import NAME

JOINTS, CLASSES, LIMIT = 5, 3, 8
COLORS = ["#ff0000", "#00ff00", "#0000ff", [9, 8, 7], "#ffffff"]


@pytest.fixture(scope="session")
def rcnn_truth():
    """torchvision's model as a user fine-tunes it: bodies of two kinds, five keypoints; small, to be quick."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_keypoints=JOINTS, num_classes=CLASSES, box_score_thresh=0.5,
            min_size=160, max_size=256, box_detections_per_img=LIMIT,
        )  # fmt: skip
        with torch.no_grad():
            network.roi_heads.box_predictor.cls_score.bias += torch.tensor([0.0, 1.0, 0.5])
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.1, 0.1)
                    module.running_var.uniform_(0.8, 1.2)
    return network.eval()


@pytest.fixture(scope="session")
def rcnn_colormap(tmp_path_factory):
    path = tmp_path_factory.mktemp("colors") / "colormap.json"
    items = [{"label": f"point {index}", "color": color} for index, color in enumerate(COLORS)]
    path.write_text(json.dumps({"items": items}))
    return path


@pytest.fixture(scope="session")
def rcnn_checkpoint(rcnn_truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("rcnn") / "mine.pth"
    torch.save(rcnn_truth.state_dict(), path)
    return path


def shrink(model):
    """The sizes of ``rcnn_truth``, which no state dict holds."""
    model.transform.min_size, model.transform.max_size = (160,), 256
    model.processing = replace(model.processing, max_predictions=LIMIT)
    return model


@pytest.fixture(scope="session")
def rcnn(rcnn_checkpoint, rcnn_colormap):
    return shrink(models.get(NAME, checkpoint_path=rcnn_checkpoint, colormap=rcnn_colormap))


@pytest.fixture(scope="session")
def rcnn_onnx(rcnn, tmp_path_factory):
    path = tmp_path_factory.mktemp("rcnn") / "m.onnx"
    return path, rcnn.export(path)
