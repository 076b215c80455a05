from sam2fast.engine.gpu import image, masks, memory

__all__ = ["image", "masks", "memory"]
