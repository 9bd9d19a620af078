"""Keypoint R-CNN with a ResNet-50 FPN: torchvision's network, with its state dict keys and parameters.

https://pytorch.org/vision/stable/models/keypoint_rcnn.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...errors import UsageError
from ...optional import needed
from .. import layers
from ..model import Model
from ..processing import rcnn_defaults

if TYPE_CHECKING:
    from ...export.result import ModelExportResult
    from ...results.detections import Result


NAME = "keypointrcnn_resnet50_fpn"
OUTPUTS = ("boxes", "labels", "scores", "keypoints", "keypoints_scores")


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
    # Modules of torchvision's network.
    transform: Any
    backbone: Any
    rpn: Any
    roi_heads: Any

    def __init__(self, name: str, num_joints: int = 17, num_classes: int = 2, **options: Any) -> None:
        super().__init__(name, rcnn_defaults(num_joints))
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
        return tuple(found[name] for name in OUTPUTS)

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

    def export(self, output: str | Path, *options: Any, **named: Any) -> ModelExportResult:
        """Exports to ONNX; the options are those of :func:`trt_pose.export.keypoint_rcnn.export_keypoint_rcnn`."""
        from ...export.keypoint_rcnn import export_keypoint_rcnn

        return export_keypoint_rcnn(self, output, *options, **named)

    def predict(
        self,
        images: Any,
        *,
        iou: float | None = None,
        conf: float | None = None,
        pre_nms_max_predictions: int | None = None,
        post_nms_max_predictions: int | None = None,
        batch_size: int = 1,
        fuse_model: bool = True,
    ) -> Result | list[Result]:
        """Finds the people in images with torch; see :meth:`trt_pose.models.model.Model.predict`.

        Raises:
            UsageError: ``pre_nms_max_predictions`` is given, or ``batch_size`` is not 1.
        """
        if pre_nms_max_predictions is not None or batch_size != 1:
            raise UsageError(
                f"predicting with {self.name}: it takes one image at a time and has no pre_nms_max_predictions. Leave"
                " them out."
            )
        from ...export.keypoint_rcnn import make_runner
        from ...predictor import PosePredictor

        with PosePredictor(make_runner(self, conf, iou, post_nms_max_predictions, fuse_model)) as predictor:
            return predictor.predict(images)


def use_published_norms(model: nn.Module) -> None:
    """Sets the ``eps`` of all batch norms to 0, as torchvision does for the published weights (COCO_V1)."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    if isinstance(getattr(parent, norm), nn.BatchNorm2d):  # not folded yet
        setattr(parent, conv, layers.fold_batch_norm(getattr(parent, conv), getattr(parent, norm)))
        setattr(parent, norm, nn.Identity())


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the numbers of joints and classes in a state dict; None when it is not of this network."""
    keypoints = state.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")  # (512, J, 4, 4)
    classes = state.get("roi_heads.box_predictor.cls_score.weight")  # (K, 1024)
    if keypoints is None or classes is None or keypoints.ndim != 4 or classes.ndim != 2:
        return None
    return {"joints": keypoints.shape[1], "classes": classes.shape[0]}
