"""YOLO-NAS-Pose."""
