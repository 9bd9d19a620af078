"""Folders from which NVIDIA's servers and pipelines run a model: Triton Inference Server and DeepStream."""

from .deepstream_folder import DeepStreamFolder, deepstream
from .triton_config import TritonOptions
from .triton_repository import TritonRepository, triton

__all__ = ["DeepStreamFolder", "TritonOptions", "TritonRepository", "deepstream", "triton"]
