"""A transformer's MLP, and its first half: a linear layer followed by GELU."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear, use_opaque_op
from sam2fast.kernels._dispatch import FLOATS, current_backend, should_use_kernel, use_triton
from sam2fast.kernels._launch import launch_config
from sam2fast.kernels._operators import call_with_gradient
from sam2fast.kernels.linear_gelu.operators import gelu_mlp_eager, linear_gelu_operator
from sam2fast.kernels.linear_gelu.reference import linear_gelu_reference
from sam2fast.kernels.linear_gelu.shapes import shape_class

__all__ = ["gelu_mlp", "linear_gelu", "linear_gelu_reference"]


def gelu_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """``linear_gelu(x, weight1, bias1) @ weight2.T + bias2``, ``(..., K)`` to ``(..., weight2.shape[0])``."""
    if x.is_cpu and use_opaque_op() and not torch.is_autocast_enabled("cpu"):
        return gelu_mlp_eager(x, weight1, bias1, weight2, bias2)
    return linear(linear_gelu(x, weight1, bias1), weight2, bias2)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x @ weight.T + bias)`` with the exact GELU (error function).

    Args:
        x: ``(..., K)``; under autocast of any float dtype, else of the weights'.
        weight: ``(N, K)``.
        bias: ``(N)``.

    Returns:
        ``(..., N)`` in the dtype of the product.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"expected x (..., K), weight (N, K) and bias (N), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    reason = _unsupported_reason(x, weight)
    if use_triton("linear_gelu", x, weight, bias, unsupported_reason=reason) and _should_use_kernel(x, weight, bias):
        return call_with_gradient(linear_gelu_operator, x, weight, bias)
    return linear_gelu_reference(x, weight, bias)


def _unsupported_reason(x: Tensor, weight: Tensor) -> str | None:
    if torch.is_autocast_enabled(x.device.type):
        return "leaves products under autocast to torch"
    if x.dtype != weight.dtype or x.dtype not in FLOATS:
        return f"takes input and weights of one dtype of {FLOATS}, and got {x.dtype} and {weight.dtype}"
    return None


def _should_use_kernel(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """False where gradients are needed or the launch table prefers torch, unless the backend is ``triton``."""
    if current_backend() == "triton":
        return True
    return should_use_kernel(x, weight, bias) and not _prefers_torch(x.device, x.dtype, x.shape[-1])


def _prefers_torch(device: torch.device, dtype: torch.dtype, inner: int) -> bool:
    given = torch.empty(0, dtype=dtype, device=device)
    return bool(launch_config("linear_gelu", given, shape_class(dtype, inner)).meta.get("TORCH", 0))


_prefers_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant of a graph
