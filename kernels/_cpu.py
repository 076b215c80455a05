"""Computes fast matrix multiplications on the CPU."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional  # torch.library.custom_op of older torch does not support ``| None``

import torch
import torch.nn.functional as F

# On CPUs with AVX2 but without AVX-512, MKL multiplies matrices as fast as oneDNN, and for some shapes four times as
# fast (such as 448 x 3072 by 3072 x 768).
_ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
# Without vector instructions for bfloat16, torch multiplies bfloat16 matrices many times slower than fp32 matrices.
EMULATES_BFLOAT16 = not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
# Minimum number of multiplications for which a 1x1 convolution is faster than ``F.linear``.
_LARGE_PRODUCT = 2**25


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Computes ``x @ weight.T + bias`` for ``x (..., K)``, ``weight (N, K)``, ``bias (N)``; returns ``(..., N)``.

    With AVX-512, a large fp32 product runs as a 1x1 convolution through oneDNN. ``F.linear`` uses MKL. On non-Intel
    processors, MKL uses no AVX-512 and takes up to twice as long.
    """
    if x.dtype == weight.dtype and is_cpu_inference(x) and not torch.is_autocast_enabled("cpu"):
        return linear_in_inference(x, (weight, bias))
    if emulates_bfloat16(x, weight):
        return in_float32(F.linear, x, weight, bias)
    if use_opaque_op() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and _is_large(x, weight):
        return _linear_operator(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_in_inference(x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
    """Computes :func:`linear` if neither autograd, autocast nor a compiler is active.

    Args:
        x: Input ``(..., K)`` of any float dtype.
        layer: Weight ``(N, K)`` and bias ``(N)``. The result has the dtype of the weight.
    """
    weight, bias = layer
    dtype = weight.dtype
    if dtype == torch.bfloat16 and EMULATES_BFLOAT16:
        return in_float32(F.linear, x, weight, bias)
    x = x.to(dtype)
    rows, columns = x.numel() // x.shape[-1], weight.numel()
    # The condition is a copy of _is_large, since a frame needs hundreds of matrix products, and calls take time.
    if not (_ONEDNN_IS_FASTER and rows * columns >= _LARGE_PRODUCT and rows % 16 == 0 and dtype == torch.float32):
        return F.linear(x, weight, bias)
    # A channels-last tensor (batch, K, 1, rows) has the memory layout of (batch, rows, K). With a single thread,
    # torch's convolution uses oneDNN only for batches of 16 or more.
    batch = 1 if torch.get_num_threads() > 1 else 16
    pixels = x.reshape(batch, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
) -> torch.Tensor:
    """Computes ``F.conv2d``. If the CPU would emulate bfloat16 multiplications, compiled graphs use fp32."""
    if torch.compiler.is_compiling() and emulates_bfloat16(x, weight):
        convolution = partial(F.conv2d, stride=stride, padding=padding, groups=groups)
        return in_float32(convolution, x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)


def use_opaque_op() -> bool:
    """Returns True if torch.compile should keep a CPU function as one opaque operator instead of tracing the function.

    Compilers generate slower matrix multiplications, and blocks that do not fit the cache. Exported graphs contain no
    opaque operators, since they must run without this package.
    """
    return torch.compiler.is_compiling() and not _is_exporting() and not torch.is_grad_enabled()


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", bool)()


def is_cpu_inference(x: torch.Tensor) -> bool:
    """Returns True if ``x`` is on the CPU and neither autograd nor a compiler is active.

    In this case, callers may overwrite intermediate tensors, and split tensors into chunks that fit the cache.
    """
    return x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def emulates_bfloat16(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Returns True if a product of ``x`` and ``weight`` would be in bfloat16 on a CPU without bfloat16 instructions.

    Returns False if gradients are enabled. Returns False during export, since the graph may run on another CPU.
    """
    if not (EMULATES_BFLOAT16 and x.device.type == "cpu") or torch.is_grad_enabled() or _is_exporting():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return dtype == torch.bfloat16


def in_float32(product: Callable[..., torch.Tensor], *operands: torch.Tensor | None) -> torch.Tensor:
    """Computes ``product`` of operands rounded to bfloat16, with fp32 sums, and rounds the result to bfloat16.

    The result differs from a product in bfloat16 only by the order of sums and by intermediate rounding.
    """
    with torch.autocast("cpu", enabled=False):
        return product(*(x if x is None else x.bfloat16().float() for x in operands)).bfloat16()


def _is_large(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Returns True if :func:`linear_in_inference` computes the product as a convolution."""
    return (
        _ONEDNN_IS_FASTER
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _LARGE_PRODUCT
        and x.numel() // x.shape[-1] % 16 == 0
    )


@torch.library.custom_op("sam2fast::linear", mutates_args=())
def _linear_operator(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:  # noqa: UP045
    return linear_in_inference(x, (weight, bias))


@_linear_operator.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
