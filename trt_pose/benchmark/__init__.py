"""Benchmarks of model files with trtexec's options: :func:`bench` measures the files in turns and reports."""

from __future__ import annotations

from .bench import bench
from .options import BenchOptions
from .report import BenchReport

__all__ = ["BenchOptions", "BenchReport", "bench"]
