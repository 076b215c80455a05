"""Fuses a linear layer and GELU: the first half of a transformer's MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import ANY, LaunchConfig, launch_config
from sam2fast.kernels._op import op, why_unsupported

__all__ = ["linear_gelu", "linear_gelu_reference"]

# Maximum number of input channels for which the matrix product is memory-bound. For such products, not writing and
# reading the hidden layer again saves more time than torch's faster matrix product.
NARROW = 384


def shape_class(dtype: torch.dtype, inner: int) -> str:
    """Returns the shape class of a matrix product: "narrow" for 16-bit dtypes and few input channels, else "*"."""
    return "narrow" if dtype != torch.float32 and inner <= NARROW else ANY


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the tile sizes of the matrix product. With ``TORCH``, torch computes the matrix product.

    The speed of tiles was not measured on a GPU. With a bound of 30 %, the kernel reaches at most 30 % of the GPU's
    peak speed. Bounds were computed by ``make sass``.
    """
    tile = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP": 8}
    if dtype == "float32":  # three TF32 products need high and low parts of both operands in registers
        small = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 8, "TORCH": 1}
        return LaunchConfig(small, {"num_warps": 8, "num_stages": 2})
    if shape == "narrow":  # the bound on sm_90 is 32 % with four warps, 30 % with eight
        return LaunchConfig(tile, {"num_warps": 4 if arch == "sm_90" else 8, "num_stages": 3})
    if arch == "sm_80":  # the kernel's bound is 88 % of peak speed; libraries reach about 80 %
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 3})
    if arch == "sm_90":  # the bound is 47 % with tiles of 128 x 256, and 35 % with tiles of 128 x 128
        return LaunchConfig({**tile, "BLOCK_N": 256, "TORCH": 1}, {"num_warps": 8, "num_stages": 3})
    return LaunchConfig({**tile, "TORCH": 1}, {"num_warps": 8, "num_stages": 3})


def _prefers_torch(device: torch.device, dtype: torch.dtype, inner: int) -> bool:
    sample = torch.empty(0, dtype=dtype, device=device)
    return bool(launch_config("linear_gelu", config, sample, shape_class(dtype, inner)).meta.get("TORCH", 0))


_prefers_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant for torch.compile


@op(
    shapes="x (..., K), weight (N, K) and bias (N)",
    unsupported=lambda x, weight, _: why_unsupported(x, weight, leaves="products", alike=(x, weight)),
    prefers_torch=lambda x, *_: _prefers_torch(x.device, x.dtype, x.shape[-1]),
    compile_key=lambda x, *_: x.shape[-1],
)
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes ``gelu(x @ weight.T + bias)`` with the exact GELU (error function).

    Args:
        x: Input ``(..., K)`` of the dtype of ``weight``, or of any float dtype under autocast.
        weight: Weight ``(N, K)``.
        bias: Bias ``(N)``.

    Returns:
        Tensor ``(..., N)`` in the dtype of the product.

    Raises:
        ValueError: If the shapes do not match.
    """
    hidden = linear(x, weight, bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(hidden)
    return torch.ops.aten.gelu_(hidden)  # GELU in place, since no gradient is needed


linear_gelu_reference = linear_gelu.reference
