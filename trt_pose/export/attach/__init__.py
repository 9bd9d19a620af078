"""Post-processing attached to ONNX files of other toolkits."""
