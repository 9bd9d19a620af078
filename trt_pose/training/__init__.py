"""Training and fine-tuning of YOLO-NAS-Pose: data, loss and training loop."""
