"""Inference by few and large operations, for GPUs; torch's operators, and kernels where the device has them."""

from typing import Any

from sam2fast.engine.gpu import masks, memory
from sam2fast.engine.gpu.image import encode
from sam2fast.engine.memory_plan import AttentionPlan, MemoryPlan
from sam2fast.engine.plan import ImagePlan, MaskPlan

__all__ = ["can_compute", "encode", "masks", "memory"]


def can_compute(plan: Any) -> bool:
    """Whether there are functions for a plan here: not for the encoders of other models, nor for compressed memories,
    which modules compute."""
    return type(plan) in (ImagePlan, MaskPlan, AttentionPlan, MemoryPlan) and getattr(plan, "perceiver", None) is None
