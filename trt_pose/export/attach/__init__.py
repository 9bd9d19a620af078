"""Selection behind the ONNX files of other toolkits."""
