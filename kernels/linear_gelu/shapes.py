"""Classes of shapes, for which the launch table has rows of their own."""

import torch

from sam2fast.kernels._launch import ANY

# Up to so many input channels memory is the limit, and the hidden layer's second trip to it costs more than what a
# library's product gains over ours.
NARROW = 384


def shape_class(dtype: torch.dtype, inner: int) -> str:
    """The launch table's name for a product over ``inner`` channels."""
    return "narrow" if dtype != torch.float32 and inner <= NARROW else ANY
