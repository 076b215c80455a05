"""Operations for inference on the CPU.

Gradients, autocast and torch.compile are disabled when these functions run.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from sam2fast.engine.common import add_into as add_into
from sam2fast.engine.plans import Conv, Linear, Norm
from sam2fast.kernels import _cpu
from sam2fast.kernels._cpu import in_float32
from sam2fast.kernels._cpu import linear_in_inference as linear

# Maximum elements of a chunk (3 MiB in fp32). Close to the fastest size for the tiny and large models on two cores.
CHUNK = 3 * 2**18
# Maximum absolute exponent for which sums of thousands of exponentials do not overflow or underflow in fp32.
SAFE_EXPONENT = 64.0
# Minimum elements of a map for which weighted sums are faster as the weight gradient of a convolution.
LARGE = 2**19


def convolve(x: Tensor, layer: Conv) -> Tensor:
    """Convolves ``(B, C, H, W)`` of any float dtype to ``(B, N, H', W')`` in the weight's dtype."""
    convolution = partial(F.conv2d, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    if layer.weight.dtype == torch.bfloat16 and _cpu.EMULATES_BFLOAT16:
        return in_float32(convolution, x, layer.weight, layer.bias)
    return convolution(x.to(layer.weight.dtype), layer.weight, layer.bias)


def normalize(x: Tensor, norm: Norm, dtype: torch.dtype | None = None) -> Tensor:
    """Returns the layer norm of ``(..., C)``, computed in fp32 (fp64 for fp64 input) and cast to ``dtype`` if given."""
    computed = torch.promote_types(torch.float32, x.dtype)
    weight, bias = norm.weight.to(computed), norm.bias.to(computed)
    return F.layer_norm(x.to(computed), x.shape[-1:], weight, bias, norm.eps).to(dtype or computed)


def mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Applies linear layers with ReLU between them."""
    for layer in layers[:-1]:
        x = linear(x, layer).relu_()
    return linear(x, layers[-1])


def gelu_mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Applies two linear layers with exact GELU between them."""
    return linear(torch.ops.aten.gelu_(linear(x, layers[0])), layers[1])


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax attention of ``q (b, heads, N, d)`` to ``k, v (b, heads, M, d)``."""
    if k.dtype == torch.bfloat16 and _cpu.EMULATES_BFLOAT16:
        return in_float32(F.scaled_dot_product_attention, q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """Computes ``function(x)`` for ``x (B, H, W, C)`` in chunks that fit the cache.

    The number of rows in a chunk is a multiple of ``rows``. ``function`` must process groups of ``rows`` rows
    independently.
    """
    B, H, W, C = x.shape
    size = rows * max(1, CHUNK // (B * W * C * rows))
    if size >= H:
        return function(x)
    chunks = x.split(size, dim=1)
    first = function(chunks[0])
    out = first.new_empty(B, H * first.shape[1] // size, *first.shape[2:])
    done = first.shape[1]
    out[:, :done] = first
    for chunk in chunks[1:]:
        y = function(chunk)
        out[:, done : done + y.shape[1]] = y
        done += y.shape[1]
    return out


def weighted_sums(weights: Tensor, x: Tensor) -> Tensor:
    """Returns ``weights.T @ x``, ``(N, K)``, of ``weights (P, N)`` and ``x (P, K)``.

    For large fp32 maps, the result is computed as the weight gradient of a 1x1 convolution. This gradient is faster for
    the reason that :func:`sam2fast.kernels._cpu.linear` gives.
    """
    positions = len(x)
    if x.dtype != torch.float32 or x.numel() < LARGE or positions % 16:
        return weights.mT @ x
    maps, gradients = (y.reshape(16, 1, positions // 16, -1).permute(0, 3, 1, 2) for y in (x, weights))
    return conv2d_weight(maps, (weights.shape[1], x.shape[1], 1, 1), gradients)[:, :, 0, 0]


def softmax_of_few_(scores: Tensor) -> Tensor:
    """Computes softmax over the last dimension in place. Faster than torch's softmax if this dimension is small."""
    if not torch.stack(scores.aminmax()).abs().amax() <= SAFE_EXPONENT:
        scores.sub_(scores.amax(dim=-1, keepdim=True))
    scores.exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))
