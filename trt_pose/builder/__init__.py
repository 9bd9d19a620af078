"""Builds of TensorRT engines and their descriptions from ONNX files."""
