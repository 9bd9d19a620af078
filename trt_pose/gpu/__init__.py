"""CUDA devices, memory and streams, and kernels compiled at run time."""
