"""Keypoint R-CNN."""
