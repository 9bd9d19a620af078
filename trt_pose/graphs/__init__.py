"""ONNX files: reading, writing, changing."""
