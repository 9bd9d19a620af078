"""Fine-tuning of YOLO-NAS-Pose: data, loss, loop."""
