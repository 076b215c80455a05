from sam2fast.engine.cpu import image, masks, memory

__all__ = ["image", "masks", "memory"]
