"""Operators of exported files beyond ONNX: attributes, ONNX functions and TensorRT plugins; see README.md."""
