"""YOLO-NAS."""
