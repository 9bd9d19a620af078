"""The NMS operators of exported files: attributes, ONNX functions, TensorRT plugins. README.md specifies them."""
