"""The result of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..choices import DetectionOutputFormatMode, ExportQuantizationMode, ExportTargetBackend
from ..quantization import QuantizationReport
from ..spec import ModelSpec
from .usage.usage import usage_instructions


@dataclass(frozen=True, repr=False)
class ModelExportResult:
    """The written file and how to use it; ``repr`` and ``print`` show the instructions.

    Attributes:
        output: path of the file.
        spec: the description stored in it.
        input_image_shape: (height, width), px.
        input_image_channels: number of input channels.
        input_image_dtype: NumPy name of the element type of the input.
        engine: the requested backend.
        quantization_mode: INT8 or FP16; None for FP32.
        output_predictions_format: batch or flat; None for any other output format.
        usage_instructions: Markdown with runnable code.
        quantization: report of the INT8 or FP16 conversion; None for FP32.
    """

    output: str
    spec: ModelSpec
    input_image_shape: tuple[int, int]
    input_image_channels: int
    input_image_dtype: str
    engine: ExportTargetBackend
    quantization_mode: ExportQuantizationMode | None
    output_predictions_format: DetectionOutputFormatMode | None
    usage_instructions: str
    quantization: QuantizationReport | None = None

    @classmethod
    def of(
        cls, output: Path, spec: ModelSpec, engine: ExportTargetBackend, quantization: QuantizationReport | None = None
    ) -> ModelExportResult:
        formats = {mode.value: mode for mode in DetectionOutputFormatMode}
        return cls(
            output=str(output),
            spec=spec,
            input_image_shape=(spec.input.height, spec.input.width),
            input_image_channels=spec.input.channels,
            input_image_dtype=spec.input.dtype,
            engine=engine,
            quantization_mode=_mode(quantization),
            output_predictions_format=formats.get(spec.output.format),
            usage_instructions=usage_instructions(str(output), spec),
            quantization=quantization,
        )

    def __repr__(self) -> str:
        return self.usage_instructions


def _mode(report: QuantizationReport | None) -> ExportQuantizationMode | None:
    if report is None:
        return None
    return ExportQuantizationMode.INT8 if report.precision.has_int8 else ExportQuantizationMode.FP16
