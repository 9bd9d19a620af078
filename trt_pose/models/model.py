"""Base classes of the models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..choices import either
from . import layers
from .processing import Processing

if TYPE_CHECKING:
    from ..choices import DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend
    from ..export.result import ModelExportResult
    from ..results.detections import Result


class Model(nn.Module):
    """A network with its classes or joints, thresholds and image policy.

    Attributes:
        name: name of the model.
        task: ``pose`` or ``detection``.
        processing: defaults of ``predict`` and ``export``; assign another to change them.
        weights: origin of the weights, for the description of exported files.
        built_on: torch device the network is built on before weights are loaded; ``meta`` makes no tensors.
        sizes_itself: the network resizes images and selects its predictions itself.
        strides: strides of the levels, in the order of their anchors.
    """

    strides: tuple[int, ...] = ()
    task = ""
    built_on = "meta"
    sizes_itself = False

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

    def adopt(self, path: Path) -> None:
        """Called after weights were loaded from ``path``, for what the state dict does not hold."""

    def weights_sha256(self) -> str:
        """Returns the SHA-256 of the state dict: names, element types, shapes and values, in order."""
        digest = hashlib.sha256()
        for key, tensor in self.state_dict().items():
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{key}{str(flat.dtype).removeprefix('torch.')}{tuple(flat.shape)}".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def export(
        self,
        output: str | Path,
        confidence_threshold: float | None = None,
        nms_threshold: float | None = None,
        engine: str | ExportTargetBackend | None = None,
        quantization_mode: str | ExportQuantizationMode | None = None,
        selective_quantizer: Any = None,
        calibration_loader: Any = None,
        calibration_method: str | None = None,
        calibration_batches: int | None = None,
        calibration_percentile: float | None = None,
        preprocessing: bool | nn.Module = True,
        postprocessing: bool | nn.Module = True,
        postprocessing_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | str = 1,
        input_image_shape: tuple[int, int] | int | None = None,
        input_image_channels: int | None = None,
        input_image_dtype: Any = None,
        max_predictions_per_image: int | None = None,
        onnx_export_kwargs: Mapping[str, Any] | None = None,
        onnx_simplify: bool = True,
        device: torch.device | str | None = None,
        output_predictions_format: str | DetectionOutputFormatMode | None = None,
        num_pre_nms_predictions: int = 1000,
        verification: bool = True,
        shortest_side: int | None = None,
        divisor: int | None = None,
        *,
        conf: float | None = None,
        iou: float | None = None,
        pad_value: int | None = None,
    ) -> ModelExportResult:
        """Writes one ONNX file with pre- and post-processing; argument names and defaults follow super-gradients.

        Args:
            output: path of the ``.onnx`` file, written atomically.
            confidence_threshold: predictions with a higher score are kept, 0..1 (0.0 is valid); None takes the model's.
            nms_threshold: boxes whose IoU with a better box is higher are suppressed, 0..1; None takes the model's.
            engine: ``"onnxruntime"`` (the default) or ``"tensorrt"``, which uses one plugin node (``PoseNMS_TRT`` for
                pose models) instead of ONNX operators with data-dependent shapes.
            quantization_mode: ``"fp16"`` or ``"int8"`` (for TensorRT: INT8 and FP16); decode and NMS stay in FP32. None
                exports FP32.
            selective_quantizer: a :class:`trt_pose.quantization.SelectiveQuantizer`, or names or patterns of layers to
                exclude from INT8.
            calibration_loader: images for INT8: a ``DataLoader``, any iterable of batches, or a folder; see
                :func:`trt_pose.quantization.open_batches`. None and ``"random"`` calibrate on noise, with a warning.
            calibration_method: ``"percentile"`` (the default), ``"entropy"``, ``"mse"`` or ``"minmax"``.
            calibration_batches: number of batches to use, by default 16.
            calibration_percentile: percentile of the ``"percentile"`` method, by default 99.99.
            preprocessing: True puts cast, channel order and scaling into the graph. False makes the graph take the
                network's own float input. A module replaces the default steps.
            postprocessing: True puts NMS into the graph. False outputs boxes (B, A, 4), scores (B, A, 1) and joints
                (B, A, J, 3) of every anchor; for a detection model boxes (B, A, 4) and scores (B, A, K). A module takes
                that tuple and returns one or more tensors.
            postprocessing_kwargs: overrides for any of ``confidence_threshold``, ``nms_threshold``,
                ``max_predictions_per_image``, ``num_pre_nms_predictions``, ``output_predictions_format``.
            batch_size: images per call, or ``"dynamic"``.
            input_image_shape: (height, width) px, multiples of the largest stride (32); None takes the model's.
            input_image_channels: 3; any value other than the model's is an error.
            input_image_dtype: ``uint8`` (the default with preprocessing) or ``float32``.
            max_predictions_per_image: maximum number N of predictions; None takes ``num_pre_nms_predictions``.
            onnx_export_kwargs: further arguments of ``torch.onnx.export`` (``opset_version`` is 17 by default).
            onnx_simplify: whether to fold constants and remove redundant nodes.
            device: torch device to trace on; None takes the model's.
            output_predictions_format: ``"batch"`` or ``"flat"``.
            num_pre_nms_predictions: maximum number of candidates that enter NMS, best first.
            shortest_side: Keypoint R-CNN only: length, px, to which a runner resizes the shorter side of an image.
            divisor: Keypoint R-CNN only: both sides are rounded to multiples of it after that resize; 1 by default.
            pad_value: grey level of the padding that runners add, 0..255; None takes that of the training.
            conf: short for ``confidence_threshold``.
            iou: short for ``nms_threshold``.
            verification: whether to run the model in ONNX Runtime and compare it with torch on a real image.

        Raises:
            UsageError: an option is out of range.
            CalibrationError: the calibration data is missing or invalid.
            ExportError: the export failed, or its outputs differ from torch's.
            MissingDependencyError: onnx or onnxslim is not installed.
        """
        from ..export import ExportOptions, export_model

        options = ExportOptions(
            confidence_threshold=either("confidence_threshold", confidence_threshold, "conf", conf),
            nms_threshold=either("nms_threshold", nms_threshold, "iou", iou),
            engine=engine,
            quantization_mode=quantization_mode,
            selective_quantizer=selective_quantizer,
            calibration_loader=calibration_loader,
            calibration_method=calibration_method,
            calibration_batches=calibration_batches,
            calibration_percentile=calibration_percentile,
            preprocessing=preprocessing,
            postprocessing=postprocessing,
            postprocessing_kwargs=postprocessing_kwargs,
            batch_size=batch_size,
            input_image_shape=input_image_shape,
            input_image_channels=input_image_channels,
            input_image_dtype=input_image_dtype,
            max_predictions_per_image=max_predictions_per_image,
            onnx_export_kwargs=onnx_export_kwargs,
            onnx_simplify=onnx_simplify,
            device=device,
            output_predictions_format=output_predictions_format,
            num_pre_nms_predictions=num_pre_nms_predictions,
            verification=verification,
            shortest_side=shortest_side,
            divisor=divisor,
            pad_value=pad_value,
        )
        return export_model(self, output, options)

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

    def __init__(self, name: str, processing: Processing, num_joints: int) -> None:
        super().__init__(name, processing.with_joints(num_joints))
        self.num_joints = num_joints


class DetectionModel(Model):
    """Base of the models that find objects of K classes."""

    task = "detection"

    def __init__(self, name: str, processing: Processing, num_classes: int) -> None:
        super().__init__(name, processing.with_classes(num_classes))
        self.num_classes = num_classes
