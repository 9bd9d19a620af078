"""Results: poses and detections of an image, their comparison, where they are written."""
