"""Keypoint R-CNN with a ResNet-50 FPN: torchvision's network, with its state dict keys and parameters.

https://pytorch.org/vision/stable/models/keypoint_rcnn.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...files import file_sha256
from ...formats import RCNN_OUTPUTS
from ...optional import needed
from .. import layers
from ..card import Card
from ..catalogue import look_up
from ..model import Model

NAME = "keypointrcnn_resnet50_fpn"


class KeypointRCNN(Model):
    """Keypoint R-CNN for one image at a time, of any size.

    ``forward`` takes (1, 3, H, W) float, RGB in 0..1, and returns torchvision's outputs for the image: boxes (N, 4)
    xyxy px, labels (N,) int64, scores (N,), keypoints (N, J, 3) x, y px, 1, and keypoints_scores (N, J), logits. The
    network resizes the image: the shorter side to 800 px, the longer to at most 1333 px, unless ``options`` set other
    sizes.

    Args:
        name: name of the model.
        num_joints: number of keypoints.
        num_classes: number of classes, including the background.
        options: options of ``torchvision.models.detection.KeypointRCNN``: ``min_size``, ``box_detections_per_img``, ...

    Raises:
        MissingDependencyError: torchvision is not installed.
    """

    task = "pose"
    # Its anchors are neither parameters nor buffers: they would be lost on torch's "meta" device.
    built_on = "cpu"
    sizes_itself = True
    # Modules of torchvision's network.
    transform: Any
    backbone: Any
    rpn: Any
    roi_heads: Any

    def __init__(self, name: str, num_joints: int = 17, num_classes: int = 2, **options: Any) -> None:
        super().__init__(name, look_up(name).processing.with_joints(num_joints))
        self.num_joints, self.num_classes = num_joints, num_classes
        with needed(f"making {name}"):
            from torchvision.models.detection import keypointrcnn_resnet50_fpn
        network = keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_keypoints=num_joints, num_classes=num_classes, **options
        )
        for part, module in network.named_children():  # keeps torchvision's state dict keys
            self.add_module(part, module)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        # The evaluation branch of torchvision's GeneralizedRCNN.forward.
        size = (x.shape[2], x.shape[3])
        images, _ = self.transform([x[0]])
        features = self.backbone(images.tensors)
        proposals, _ = self.rpn(images, features)
        found, _ = self.roi_heads(features, proposals, images.image_sizes)
        (found,) = self.transform.postprocess(found, images.image_sizes, [size])
        return tuple(found[name] for name in RCNN_OUTPUTS)

    def fuse(self) -> KeypointRCNN:
        """Folds the batch norms into the convolutions before them, in place; for inference only."""
        body = self.backbone.body
        _fold(body, "conv1", "bn1")
        for block in body.modules():
            if hasattr(block, "conv3"):  # a bottleneck
                for part in ("1", "2", "3"):
                    _fold(block, f"conv{part}", f"bn{part}")
                if block.downsample is not None:
                    _fold(block.downsample, "0", "1")
        return self

    def upgrade(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames keys of torchvision before 0.13 (plain convolutions in the FPN and RPN) to the current ones."""
        old = (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2")
        older = (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1")
        return {
            re.sub(f"^{old[0]}$", old[1], re.sub(f"^{older[0]}$", older[1], key)): value for key, value in state.items()
        }

    def adopt(self, path: Path) -> None:
        """Sets the batch norms as the published weights need them: trained with no addition to the variance."""
        card = look_up(self.name)
        if file_sha256(path).startswith(card.remote_sha256):  # torchvision, COCO_V1
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 0.0


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    if isinstance(getattr(parent, norm), nn.BatchNorm2d):  # not folded yet
        setattr(parent, conv, layers.fold_batch_norm(getattr(parent, conv), getattr(parent, norm)))
        setattr(parent, norm, nn.Identity())


def build(card: Card, joints: int, classes: int) -> KeypointRCNN:
    """Creates the network of a card with torch's initialisation."""
    return KeypointRCNN(card.name, joints, classes)


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the numbers of joints and classes in a state dict; None when it is not of this network."""
    keypoints = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")  # (512, J, 4, 4)
    classes = state.get("roi_heads.box_predictor.cls_score.weight")  # (K, 1024)
    if keypoints is None or classes is None or keypoints.ndim != 4 or classes.ndim != 2:
        return None
    return {"joints": keypoints.shape[1], "classes": classes.shape[0]}
