"""Computes plans with few, large operations at fixed addresses, for GPUs, CUDA graphs and compilers.

Calls torch's operators, and kernels of this package on devices that support kernels.
"""

from sam2fast.engine.static import image, masks, memory
from sam2fast.engine.static.image import encode

__all__ = ["encode", "image", "masks", "memory"]
