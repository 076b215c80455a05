"""Inference by few and large operations, for GPUs; torch's operators, and kernels where the device has them."""

from typing import Any

from sam2fast.engine.gpu import image, masks, memory
from sam2fast.engine.gpu.image import encode
from sam2fast.engine.plan import PlanOfPart

__all__ = ["can_compute", "encode", "image", "masks", "memory"]


def can_compute(plan: Any) -> bool:
    """Whether there are functions for a plan here."""
    return isinstance(plan, PlanOfPart)
