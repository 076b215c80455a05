"""Computes plans on the CPU, in chunks that fit the cache."""

from sam2fast.engine.cpu import image, masks, memory
from sam2fast.engine.cpu.image import encode

__all__ = ["encode", "image", "masks", "memory"]
