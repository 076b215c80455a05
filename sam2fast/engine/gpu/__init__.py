"""Inference by few and large operations, for GPUs; torch's operators, and kernels where the device has them."""
