"""Calibration, explicit INT8 and FP16, and the noise that they add. Needs onnx, but not torch."""

from ..optional import needed

with needed("quantizing"):
    from .batches import open_batches
    from .cache import CalibrationCache
    from .calibrate import CalibrationOptions, calibrate
    from .layers import SelectiveQuantizer
    from .quantize import QuantizationReport, QuantizeOptions, quantize, quantize_model

__all__ = [
    "CalibrationCache", "CalibrationOptions", "QuantizationReport", "QuantizeOptions", "SelectiveQuantizer",
    "calibrate", "open_batches", "quantize", "quantize_model",
]  # fmt: skip
