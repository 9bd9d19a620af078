"""Comparison of the people or objects that two model files find in the same images."""

from .measure import check_loss, compare, compare_image, compare_outputs
from .result import Comparison, ImageComparison, TensorGap

__all__ = [
    "Comparison", "ImageComparison", "TensorGap", "check_loss", "compare", "compare_image", "compare_outputs",
]  # fmt: skip
