"""Base classes of the models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import layers
from .processing import Processing, detection_defaults, pose_defaults

if TYPE_CHECKING:
    from ..export.result import ModelExportResult
    from ..results.detections import Result


class Model(nn.Module):
    """A network with its classes or joints, thresholds and image policy.

    Attributes:
        name: name of the model.
        task: ``pose`` or ``detection``.
        processing: defaults of ``predict`` and ``export``; assign another to change them.
        weights: origin of the weights, for the description of exported files.
        strides: strides of the levels, in the order of their anchors.
    """

    strides: tuple[int, ...] = ()
    task = ""

    def __init__(self, name: str, processing: Processing) -> None:
        super().__init__()
        self.name = name
        self.processing = processing
        self.weights = "seed"

    def first_conv(self) -> nn.Conv2d:
        """Returns the convolution that takes the image, after :meth:`fuse`."""
        raise NotImplementedError

    def fuse(self) -> Model:
        """Folds branches and batch norms into convolutions, in place; for inference only."""
        layers.fuse(self)
        return self

    def upgrade(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames the keys of a state dict of an older version to the current ones; unchanged by default."""
        return state

    def weights_sha256(self) -> str:
        """Returns the SHA-256 of the state dict: names, element types, shapes and values, in order."""
        digest = hashlib.sha256()
        for key, tensor in self.state_dict().items():
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{key}{str(flat.dtype).removeprefix('torch.')}{tuple(flat.shape)}".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def export(self, output: str | Path, *options: Any, **named: Any) -> ModelExportResult:
        """Exports to ONNX; the options are those of :func:`trt_pose.export.export_model`."""
        from ..export import export_model

        return export_model(self, output, *options, **named)

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
        """Finds the people or objects in images with torch, with the same results as the exported file.

        Args:
            images: any source that :meth:`trt_pose.PosePredictor.predict` accepts.
            iou: IoU threshold of NMS; None uses :attr:`processing`.
            conf: score threshold; None uses :attr:`processing`.
            pre_nms_max_predictions: number of candidates that enter NMS; None uses :attr:`processing`.
            post_nms_max_predictions: maximum number of results per image; None uses :attr:`processing`.
            batch_size: images per forward pass.
            fuse_model: fold batch norms first; faster, results differ by about 1e-3 px.
        """
        from ..export.torch_runner import TorchRunner
        from ..predictor import PosePredictor

        runner = TorchRunner.of_model(
            self,
            iou=iou,
            confidence=conf,
            candidates=pre_nms_max_predictions,
            limit=post_nms_max_predictions,
            fuse=fuse_model,
        )
        with PosePredictor(runner) as predictor:
            return predictor.predict(images, batch_size=batch_size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class PoseModel(Model):
    """Base of the models that find people and their J joints."""

    task = "pose"

    def __init__(self, name: str, num_joints: int) -> None:
        super().__init__(name, pose_defaults(num_joints))
        self.num_joints = num_joints


class DetectionModel(Model):
    """Base of the models that find objects of K classes."""

    task = "detection"

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__(name, detection_defaults(name, num_classes))
        self.num_classes = num_classes
