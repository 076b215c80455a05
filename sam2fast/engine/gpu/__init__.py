"""Inference by few and large operations, for GPUs; torch's operators, and kernels where the device has them."""

from sam2fast.engine.gpu import image, masks, memory
from sam2fast.engine.gpu.image import encode

__all__ = ["encode", "image", "masks", "memory"]
