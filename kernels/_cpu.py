"""Fast matrix multiplications on the CPU."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional  # (what the oldest supported torch reads in a schema)

import torch
import torch.nn.functional as F

# With AVX2 alone MKL is as fast, and oneDNN takes four times as long for some shapes: 448 x 3072 by 3072 x 768.
_ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
# Without vector instructions for bfloat16, torch's bfloat16 multiplications are many times slower than fp32.
EMULATES_BFLOAT16 = not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
# Multiplications from which a product is faster as a 1x1 convolution.
_LARGE_PRODUCT = 2**25


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` for ``x (..., K)``, ``weight (N, K)``, ``bias (N)``; result ``(..., N)``.

    The same sums as ``F.linear``. With AVX-512 a large fp32 product runs as a 1x1 convolution through oneDNN. Torch's
    own fp32 matrix multiplication uses MKL, which uses no AVX-512 on processors of other makers and takes up to twice
    as long.
    """
    if x.dtype == weight.dtype and is_cpu_inference(x) and not torch.is_autocast_enabled("cpu"):
        return linear_in_inference(x, (weight, bias))
    if emulates_bfloat16(x, weight):
        return in_float32(F.linear, x, weight, bias)
    if use_opaque_op() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and _is_large(x, weight):
        return _linear_operator(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_in_inference(x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
    """:func:`linear` of ``x`` of any float dtype, where neither autograd, autocast nor a compiler is active.

    Args:
        layer: weight ``(N, K)`` and bias ``(N)``; the result has their dtype.
    """
    weight, bias = layer
    dtype = weight.dtype
    if dtype == torch.bfloat16 and EMULATES_BFLOAT16:
        return in_float32(F.linear, x, weight, bias)
    x = x.to(dtype)
    rows, columns = x.numel() // x.shape[-1], weight.numel()
    # As _is_large says; written out, since a frame has hundreds of these products.
    if not (_ONEDNN_IS_FASTER and rows * columns >= _LARGE_PRODUCT and rows % 16 == 0 and dtype == torch.float32):
        return F.linear(x, weight, bias)
    # (batch, K, 1, rows) in channels-last order is the same memory as (batch, rows, K). With one thread torch uses
    # oneDNN only for batches of 16 or more.
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
    """``F.conv2d``, in compiled graphs without bfloat16 multiplications that the processor would emulate."""
    if torch.compiler.is_compiling() and emulates_bfloat16(x, weight):
        convolution = partial(F.conv2d, stride=stride, padding=padding, groups=groups)
        return in_float32(convolution, x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)


def use_opaque_op() -> bool:
    """Whether the graph that is being traced should call an opaque CPU operator instead of the code inside it.

    The compiler knows neither these matrix multiplications nor blocks that fit the cache. A graph for export must run
    without this package, so it holds no such operator.
    """
    return torch.compiler.is_compiling() and not _is_exporting() and not torch.is_grad_enabled()


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", bool)()


def is_cpu_inference(x: torch.Tensor) -> bool:
    """Whether ``x`` is on the CPU and neither autograd nor a compiler is active.

    Then work can be cut into chunks that fit the cache, and done in place.
    """
    return x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def emulates_bfloat16(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a product of these would be in bfloat16 on a processor without instructions for it, without gradients.

    False in a graph for export, which may run elsewhere.
    """
    if not (EMULATES_BFLOAT16 and x.device.type == "cpu") or torch.is_grad_enabled() or _is_exporting():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return dtype == torch.bfloat16


def in_float32(product: Callable[..., torch.Tensor], *operands: torch.Tensor | None) -> torch.Tensor:
    """``product`` of the operands' bfloat16 values with fp32 sums; the result is rounded to bfloat16.

    It differs from the product in bfloat16 only in the order of its sums and in intermediate rounding.
    """
    with torch.autocast("cpu", enabled=False):
        return product(*(x if x is None else x.bfloat16().float() for x in operands)).bfloat16()


def _is_large(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether :func:`linear_in_inference` computes a product as a convolution."""
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
