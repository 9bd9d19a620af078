"""The TensorRT of this machine: what building and running share."""
