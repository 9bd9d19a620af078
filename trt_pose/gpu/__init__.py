"""CUDA: the device, its memory and streams, kernels compiled at run time."""
