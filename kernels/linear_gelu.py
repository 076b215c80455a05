"""A transformer's MLP, and its first half: a linear layer followed by GELU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import linear, use_opaque_op
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY, LaunchConfig, launch_config
from sam2fast.kernels._op import Op

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
    return _linear_gelu(x, weight, bias)


# ---- reference implementation ----


def linear_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Reference implementation of :func:`linear_gelu`: a matrix multiplication, then GELU of its rounded result."""
    hidden = linear(x, weight, bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(hidden)
    return torch.ops.aten.gelu_(hidden)


# ---- operator ----

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
    if torch.is_autocast_enabled(x.device.type):
        return "leaves products under autocast to torch"
    if x.dtype != weight.dtype or x.dtype not in FLOATS:
        return f"takes input and weights of one dtype of {FLOATS}, and got {x.dtype} and {weight.dtype}"
    return None


def _prefers_torch(device: torch.device, dtype: torch.dtype, inner: int) -> bool:
    given = torch.empty(0, dtype=dtype, device=device)
    return bool(launch_config("linear_gelu", config, given, shape_class(dtype, inner)).meta.get("TORCH", 0))


_prefers_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant of a graph

_linear_gelu = Op(
    "linear_gelu",
    linear_gelu_reference,
    "linear_gelu_triton.linear_gelu_triton",
    unsupported=_unsupported,
    prefers_torch=lambda x, *_: _prefers_torch(x.device, x.dtype, x.shape[-1]),
    kind=lambda x, *_: x.shape[-1],
)

# ---- the CPU's MLP ----

# Input elements of a chunk, 1 MiB in fp32: its hidden layer, four times as wide, fits the cache.
CHUNK = 2**18


@torch.library.custom_op("sam2fast::gelu_mlp_eager", mutates_args=())
def gelu_mlp_eager(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Both layers in chunks of rows, as one node of a graph for the CPU."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(len(rows), len(weight2))
    chunk = max(16, CHUNK // x.shape[-1] // 16 * 16)
    for part, target in zip(rows.split(chunk), out.split(chunk), strict=True):
        target.copy_(linear(linear_gelu_reference(part, weight1, bias1), weight2, bias2))
    return out.view(*x.shape[:-1], -1)


@gelu_mlp_eager.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight2.shape[0])
