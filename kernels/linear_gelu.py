"""A linear layer followed by GELU: the first half of a transformer's MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import ANY, LaunchConfig, launch_config
from sam2fast.kernels._op import op, why_unsupported

__all__ = ["linear_gelu", "linear_gelu_reference"]

# Up to so many input channels memory is the limit, and the hidden layer's second trip to it costs more than what a
# library's product gains over ours.
NARROW = 384


def shape_class(dtype: torch.dtype, inner: int) -> str:
    """The shape class of a product over ``inner`` channels."""
    return "narrow" if dtype != torch.float32 and inner <= NARROW else ANY


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Tiles of the product; ``TORCH`` leaves it to torch. No GPU has measured them: bounds are by ``make sass``."""
    tile = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP": 8}
    if dtype == "float32":  # three products in TF32 keep both operands in registers, twice
        small = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 8, "TORCH": 1}
        return LaunchConfig(small, {"num_warps": 8, "num_stages": 2})
    if shape == "narrow":  # on sm_90 three programs of four warps fit, and two of eight: bounds of 32 % and 30 %
        return LaunchConfig(tile, {"num_warps": 4 if arch == "sm_90" else 8, "num_stages": 3})
    if arch == "sm_80":  # the bound is 88 % of the peak, where libraries reach about 80 %
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 3})
    if arch == "sm_90":  # the bound is 47 %, of 128 x 128 35 %
        return LaunchConfig({**tile, "BLOCK_N": 256, "TORCH": 1}, {"num_warps": 8, "num_stages": 3})
    return LaunchConfig({**tile, "TORCH": 1}, {"num_warps": 8, "num_stages": 3})


def _unsupported(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    return why_unsupported(x, weight, leaves="products", alike=(x, weight))


def _prefers_torch(device: torch.device, dtype: torch.dtype, inner: int) -> bool:
    given = torch.empty(0, dtype=dtype, device=device)
    return bool(launch_config("linear_gelu", config, given, shape_class(dtype, inner)).meta.get("TORCH", 0))


_prefers_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant of a graph


@op(
    shapes="x (..., K), weight (N, K) and bias (N)",
    unsupported=_unsupported,
    prefers_torch=lambda x, *_: _prefers_torch(x.device, x.dtype, x.shape[-1]),
    kind=lambda x, *_: x.shape[-1],
)
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
    hidden = linear(x, weight, bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(hidden)
    return torch.ops.aten.gelu_(hidden)  # of the rounded product


linear_gelu_reference = linear_gelu.reference
