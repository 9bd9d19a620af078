"""TensorRT engines: which TensorRT this is, its plugins."""
