"""Poses for data engines such as Ray Data, Spark and Daft; see README.md."""

from .find_poses import FindPoses

__all__ = ["FindPoses"]
