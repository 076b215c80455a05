"""Fuses a residual sum, layer norm and linear layers, for the few tokens of a mask decoder."""

from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import ANY, is_hopper
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.layer_norm import layer_norm_reference

__all__ = ["norm_linear", "norm_linear_reference"]

WIDEST = 512  # maximum number of channels of the norm: a program of the kernel processes all channels of a row
FEW = 64  # maximum number of rows (tokens of all objects) for which the kernel uses small tiles


def shape_class(rows: int) -> str:
    """Returns the shape class of an input: "few" for at most 64 rows, else "*"."""
    return "few" if rows <= FEW else ANY


# Minimum number of output channels for which torch is faster than the kernel, in fp32 on Hopper with more than FEW
# rows. On an H100, the MLP's hidden layer of 256 rows took 30 us in torch and 48 us in the kernel. For 1,024 output
# channels, the kernel was faster.
MANY_COLUMNS = 2048


def _prefers_torch(delta: Tensor, *rest: Tensor) -> bool:
    weight = rest[6]
    rows = delta.numel() // max(1, delta.shape[-1])
    return weight.dtype == torch.float32 and rows > FEW and len(weight) >= MANY_COLUMNS and is_hopper(delta.device)


def _fits(delta: Tensor, x: object, position: object, *rest: Any) -> bool:
    inner_weight, inner_bias, norm_weight, _, weight, _, _, num_positioned, *_ = rest
    K = norm_weight.shape if inner_weight is None else inner_weight.shape[1:]
    is_whole = (inner_weight is None) == (inner_bias is None)
    return delta.shape[-1:] == K and is_whole and 0 <= num_positioned <= len(weight)


def _unsupported(delta: Tensor, *rest: object) -> str | None:
    inner, norm, weight = rest[2], rest[4], rest[6]
    assert isinstance(norm, Tensor) and isinstance(weight, Tensor)
    alike = [tensor for tensor in (inner, weight) if isinstance(tensor, Tensor)]
    return why_unsupported(delta, *rest, leaves="products", alike=alike, channels=len(norm), widest=WIDEST)


@op(
    shapes=(
        "delta (..., K), x and position (..., C), an inner layer inner_weight (C, K) and inner_bias (C) or else K = C, "
        "norm_weight and norm_bias (C), weight (N, C), bias (N) and num_positioned up to N"
    ),
    fits=_fits,
    unsupported=_unsupported,
    prefers_torch=_prefers_torch,
    compile_key=lambda delta, *rest: (delta.shape[-1], len(rest[4])),
)
def norm_linear(
    delta: Tensor,
    x: Tensor | None,
    position: Tensor | None,
    inner_weight: Tensor | None,
    inner_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    num_positioned: int = 0,
    relu: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the layer norm of a residual sum, and linear layers of the norm with and without a position.

    Args:
        delta: Tensor ``(..., C)`` that is added to ``x``. With an inner layer, ``delta`` has K channels, which the
            inner layer projects to C channels.
        x: Residual ``(..., C)``, or None.
        position: Position encoding ``(..., C)``, added to the norm for the first ``num_positioned`` outputs, or None.
        inner_weight, inner_bias: Weight ``(C, K)`` and bias ``(C)`` of the inner layer, or None.
        norm_weight, norm_bias: Weight and bias ``(C)`` of the norm.
        weight, bias: Concatenated weights ``(N, C)`` and biases ``(N)`` of all linear layers of the norm; N may be 0.
        eps: Value added to the variance.
        num_positioned: Number of leading rows of ``weight`` that are multiplied by norm + position.
        relu: If True, applies ReLU to the results of the linear layers.
        dtype: Dtype of the norm. None means fp32, or fp64 for fp64 input.

    Returns:
        The norm ``(..., C)``, and results ``(..., N)`` of the linear layers in the dtype of ``weight``.

    Raises:
        ValueError: If the shapes do not match.
    """
    if inner_weight is not None:
        delta = linear(delta.to(inner_weight.dtype), inner_weight, inner_bias)
    total = delta if x is None else x + delta
    normed = layer_norm_reference(total, norm_weight, norm_bias, eps)
    moved = normed if position is None else normed + position
    rows = [num_positioned, weight.shape[0] - num_positioned]
    layers = zip((moved, normed), weight.split(rows), bias.split(rows), strict=True)
    out = torch.cat([linear(y.to(weight.dtype), w, b) for y, w, b in layers], dim=-1)
    return normed.to(dtype or normed.dtype), out.relu() if relu else out


norm_linear_reference = norm_linear.reference
