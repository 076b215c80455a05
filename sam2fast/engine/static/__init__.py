"""Computes plans with few, large operations at fixed addresses, for GPUs, CUDA graphs and compilers.

Calls torch's operators. If the device supports kernels of this package, these are called, too.
"""

from sam2fast.engine.static import image, masks, memory
from sam2fast.engine.static.image import encode

__all__ = ["encode", "image", "masks", "memory"]
