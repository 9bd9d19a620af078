"""The options of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from ..choices import DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend
from ..errors import ExportError, UsageError

DEFAULT_CANDIDATES = 1000
_SELECTION = (
    "confidence_threshold",
    "nms_threshold",
    "max_predictions_per_image",
    "num_pre_nms_predictions",
    "output_predictions_format",
)


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export, with the names and defaults of super-gradients.

    :meth:`trt_pose.models.model.Model.export` describes each of them.
    """

    confidence_threshold: float | None = None
    nms_threshold: float | None = None
    engine: str | ExportTargetBackend | None = None
    quantization_mode: str | ExportQuantizationMode | None = None
    selective_quantizer: Any = None
    calibration_loader: Any = None
    calibration_method: str | None = None
    calibration_batches: int | None = None
    calibration_percentile: float | None = None
    preprocessing: bool | nn.Module = True
    postprocessing: bool | nn.Module = True
    postprocessing_kwargs: Mapping[str, Any] | None = None
    batch_size: int | str = 1
    input_image_shape: tuple[int, int] | int | None = None
    input_image_channels: int | None = None
    input_image_dtype: Any = None
    max_predictions_per_image: int | None = None
    onnx_export_kwargs: Mapping[str, Any] | None = None
    onnx_simplify: bool = True
    device: torch.device | str | None = None
    output_predictions_format: str | DetectionOutputFormatMode | None = None
    num_pre_nms_predictions: int = DEFAULT_CANDIDATES
    verification: bool = True
    shortest_side: int | None = None
    divisor: int | None = None
    pad_value: int | None = None

    def resolved(self) -> ExportOptions:
        """Returns the options with ``postprocessing_kwargs`` applied."""
        overrides = dict(self.postprocessing_kwargs or {})
        unknown = set(overrides) - set(_SELECTION)
        if unknown:
            raise ExportError(
                f"postprocessing_kwargs: got {', '.join(sorted(unknown))}, expected some of {', '.join(_SELECTION)}."
            )
        return replace(self, postprocessing_kwargs=None, **overrides)

    def changed(self) -> dict[str, Any]:
        """Returns the options that differ from their defaults."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        return {name: value for name, (value, default) in values.items() if not _same(value, default)}

    def refuse(self, model: str, names: Sequence[str]) -> None:
        """Raises UsageError when one of ``names`` is set: the model does not have that option."""
        for name, value in self.changed().items():
            if name in names:
                raise UsageError(f"exporting {model}: it has no option {name} (got {value!r}). Leave it out.")


def _same(value: Any, default: Any) -> bool:
    """Whether an option has its default; arrays and modules are never compared by value."""
    return value is default or (isinstance(value, (str, int, float)) and value == default)
