"""NMS operators of exported files: attributes, ONNX functions and TensorRT plugins; see README.md."""
