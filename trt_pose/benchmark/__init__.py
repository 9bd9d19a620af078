"""Measuring model files with trtexec's words: ``bench`` opens, warms up, measures in turns, and reports."""

from __future__ import annotations

from .bench import bench
from .options import BenchOptions
from .report import BenchReport

__all__ = ["BenchOptions", "BenchReport", "bench"]
