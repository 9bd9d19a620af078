"""From an ONNX file to a TensorRT engine and its description."""
