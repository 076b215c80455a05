"""The second half of a transformer's block: layer norm, two linear layers with GELU between them, and the residual."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import is_hopper
from sam2fast.kernels._op import Op
from sam2fast.kernels.layer_norm import layer_norm_reference
from sam2fast.kernels.linear_gelu import linear_gelu_reference

__all__ = ["is_joined", "mlp", "mlp_reference"]

WIDEST = 192  # channels, of which a program holds whole rows
# Channels where one launch is expected to take less than three quarters of the time of three, by the bound of machine
# code and linear_gelu's time over its own bound. It was not measured.
JOINED = range(65, 97)


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
    C, N = x.shape[-1:], bias1.shape
    vectors = shift, norm_weight, norm_bias, bias2
    if weight1.shape != (*N, *C) or weight2.shape != (*C, *N) or any(each.shape != C for each in vectors):
        given = x, shift, norm_weight, norm_bias, weight1, bias1, weight2, bias2
        raise ValueError(
            f"expected x (..., C), shift and norm (C), layers (N, C) and (N), (C, N) and (C), "
            f"got {', '.join(str(tuple(each.shape)) for each in given)}"
        )
    return _mlp(x, shift, norm_weight, norm_bias, weight1, bias1, weight2, bias2, eps)


def is_joined(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Returns True if a block's MLP is expected to be faster as one launch than as three."""
    return channels in JOINED and dtype != torch.float32 and is_hopper(device)


# ---- reference implementation ----


def mlp_reference(
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
    """Reference implementation of :func:`mlp`: one operation after the other."""
    total = x + shift
    normed = layer_norm_reference(total, norm_weight, norm_bias, eps, weight1.dtype)
    return (total + linear(linear_gelu_reference(normed, weight1, bias1), weight2, bias2)).to(x.dtype)


# ---- operator ----


def shape_class(channels: int) -> str:
    """Returns the shape class of ``channels`` channels."""
    return "narrow" if channels <= 96 else "wide"


def _unsupported(x: Tensor, *rest: object) -> str | None:
    given = [each for each in (x, *rest) if isinstance(each, Tensor)]
    if torch.is_autocast_enabled(x.device.type):
        return "leaves products under autocast to torch"
    if wrong := [each.dtype for each in given if each.dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    first, second = given[4], given[6]
    if not x.dtype == first.dtype == second.dtype:
        return f"takes input and weights of one dtype, and got {x.dtype}, {first.dtype} and {second.dtype}"
    channels = x.shape[-1]
    return f"takes at most {WIDEST} channels, and got {channels}" if channels > WIDEST else None


def _prefers_torch(x: Tensor, *_: object) -> bool:
    """Returns True for fp32: three products in TF32 keep both operands in registers, twice."""
    return x.dtype == torch.float32


_mlp = Op(
    "mlp",
    mlp_reference,
    "mlp_triton.mlp_triton",
    unsupported=_unsupported,
    prefers_torch=_prefers_torch,
    kind=lambda x, *given: (x.shape[-1], len(given[3])),
)
