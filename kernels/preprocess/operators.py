"""The kernel as an operator of torch. It has no gradient: pixels are what comes from outside."""

from typing import List  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._operators import registered


@registered("sam2fast::resize_and_normalise")
def resize_and_normalise_operator(
    pixels: Tensor,
    height: int,
    width: int,
    mean: List[float],  # noqa: UP006
    std: List[float],  # noqa: UP006
    white: float,
) -> Tensor:
    """Pixels to fp32 ``(B, 3, height, width)``, channels last in memory."""
    from sam2fast.kernels.preprocess.kernel import resize_and_normalise_triton

    return resize_and_normalise_triton(pixels, (height, width), mean, std, white)


@resize_and_normalise_operator.register_fake
def _(pixels: Tensor, height: int, width: int, mean: list[float], std: list[float], white: float) -> Tensor:
    out = pixels.new_empty(len(pixels), height, width, 3, dtype=torch.float32)
    return out.permute(0, 3, 1, 2)
