"""Fuses the second half of a transformer block: layer norm, two linear layers with GELU, and the residual."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import is_hopper
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.layer_norm import layer_norm_reference
from sam2fast.kernels.linear_gelu import linear_gelu_reference

__all__ = ["is_joined", "mlp", "mlp_reference"]

WIDEST = 192  # maximum number of channels: a program of the kernel processes all channels of a row
# Numbers of channels for which this kernel is estimated to take less than three quarters of the time of three kernels.
# Estimated times are bounds from the machine code, multiplied by the ratio of linear_gelu's time to linear_gelu's
# bound. The times were not measured.
JOINED = range(65, 97)


def is_joined(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Returns True if the kernel :func:`mlp` is estimated to be faster than kernels for its three steps."""
    return channels in JOINED and dtype != torch.float32 and is_hopper(device)


def shape_class(channels: int) -> str:
    """Returns the shape class of an MLP: "narrow" for at most 96 channels, else "wide"."""
    return "narrow" if channels <= 96 else "wide"


def _unsupported(x: Tensor, *rest: object) -> str | None:
    weights = [tensor for tensor in rest if isinstance(tensor, Tensor)][3::2]
    return why_unsupported(x, *rest, leaves="products", alike=(x, *weights), widest=WIDEST)


@op(
    shapes=(
        "x (..., C), shift, norm_weight and norm_bias (C), and layers weight1 (N, C), bias1 (N), weight2 (C, N), "
        "bias2 (C)"
    ),
    unsupported=_unsupported,
    # In fp32, torch is faster: the kernel needs three TF32 products, with high and low parts of operands in registers.
    prefers_torch=lambda x, *_: x.dtype == torch.float32,
    compile_key=lambda x, *rest: (x.shape[-1], len(rest[3])),
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
        x: Input ``(..., C)`` of any float dtype.
        shift: Vector ``(C)``, added to each row of ``x`` without rounding the sum.
        norm_weight, norm_bias: Weight and bias ``(C)`` of the layer norm.
        weight1, bias1: Weight ``(N, C)`` and bias ``(N)`` of the first linear layer.
        weight2, bias2: Weight ``(C, N)`` and bias ``(C)`` of the second linear layer.
        eps: Value added to the variance.

    Returns:
        Tensor ``(..., C)`` in the dtype of ``x``.

    Raises:
        ValueError: If the shapes do not match.
    """
    total = x + shift
    normed = layer_norm_reference(total, norm_weight, norm_bias, eps, weight1.dtype)
    return (total + linear(linear_gelu_reference(normed, weight1, bias1), weight2, bias2)).to(x.dtype)


mlp_reference = mlp.reference
