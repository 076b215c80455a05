"""The second half of a transformer's block: layer norm, two linear layers with GELU between them, and the residual."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import is_hopper
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.layer_norm import layer_norm_reference
from sam2fast.kernels.linear_gelu import linear_gelu_reference

__all__ = ["is_joined", "mlp", "mlp_reference"]

WIDEST = 192  # channels, of which a program holds whole rows
# Channels where one launch is expected to take less than three quarters of the time of three, by the bound of machine
# code and linear_gelu's time over its own bound. It was not measured.
JOINED = range(65, 97)


def is_joined(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Returns True if a block's MLP is expected to be faster as one launch than as three."""
    return channels in JOINED and dtype != torch.float32 and is_hopper(device)


def shape_class(channels: int) -> str:
    """Returns the shape class of ``channels`` channels."""
    return "narrow" if channels <= 96 else "wide"


def _unsupported(x: Tensor, *rest: object) -> str | None:
    weights = [each for each in rest if isinstance(each, Tensor)][3::2]
    return why_unsupported(x, *rest, leaves="products", alike=(x, *weights), channels=x.shape[-1], widest=WIDEST)


@op(
    shapes=(
        "x (..., C), shift, norm_weight and norm_bias (C), and layers weight1 (N, C), bias1 (N), weight2 (C, N), "
        "bias2 (C)"
    ),
    unsupported=_unsupported,
    prefers_torch=lambda x, *_: x.dtype == torch.float32,  # three TF32 products keep both operands in registers, twice
    kind=lambda x, *given: (x.shape[-1], len(given[3])),
)
def mlp(
    x: Tensor,
    shift: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
) -> Tensor:
    """Computes ``y + linear2(gelu(linear1(layer_norm(y))))`` for ``y = x + shift``, with the exact GELU.

    Args:
        x: ``(..., C)``, of any float dtype.
        shift: ``(C)``, added to each row of ``x``. The sum is not rounded.
        norm_weight, norm_bias: ``(C)``.
        weight1, bias1: ``(N, C)`` and ``(N)`` of the first linear layer.
        weight2, bias2: ``(C, N)`` and ``(C)`` of the second linear layer.
        eps: Added to the variance.

    Returns:
        ``(..., C)`` in the dtype of ``x``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    total = x + shift
    normed = layer_norm_reference(total, norm_weight, norm_bias, eps, weight1.dtype)
    return (total + linear(linear_gelu_reference(normed, weight1, bias1), weight2, bias2)).to(x.dtype)


mlp_reference = mlp.reference
