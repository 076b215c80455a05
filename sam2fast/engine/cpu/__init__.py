from sam2fast.engine.cpu import masks, memory
from sam2fast.engine.cpu.relatives import encode

__all__ = ["encode", "masks", "memory"]
