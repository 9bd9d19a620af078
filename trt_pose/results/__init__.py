"""Results: poses and detections of an image, their comparison and their output."""
