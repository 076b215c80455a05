"""Registers FLOP formulas in ``FlopCounterMode``, for our operators and for torch operators without a formula."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

import sam2fast.kernels.depthwise_norm

# Importing the following modules registers the operators.
import sam2fast.kernels.embed_patches
import sam2fast.kernels.grouped_mlp
import sam2fast.kernels.linear_gelu
import sam2fast.kernels.mask_downsampler
import sam2fast.kernels.mask_logits
import sam2fast.kernels.memory_attention
import sam2fast.kernels.mlp
import sam2fast.kernels.norm_linear
import sam2fast.kernels.token_attention
import sam2fast.kernels.window_attention  # noqa: F401

Shape = Sequence[int]
_ops = torch.ops.sam2fast
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@register_flop_formula(_ops.window_attention)
def window_attention_flops(qkv: Shape, bias: Shape, heads: int, window: int, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of attention of ``qkv (B, H, W, 3C)``. Padding counts as keys, and without pooling as queries."""
    return _in_windows(qkv, qkv[3] // 3, window, out_shape)


@register_flop_formula(_ops.pooled_window_attention)
def pooled_window_attention_flops(x: Shape, bias: Shape, heads: int, window: int, *rest: Any, out_shape: Any) -> int:
    """Counts FLOPs of attention of ``x (B, H, W, 4C)``. Max-pooling of the residual's C channels counts no FLOPs."""
    return _in_windows(x, x[3] // 4, window, out_shape[0])


def _in_windows(x: Shape, channels: int, window: int, out_shape: Shape) -> int:
    B, H, W, _ = x
    keys = window**2 if window else H * W
    positions = math.ceil(H / window) * math.ceil(W / window) * keys if window else keys
    queries = positions * out_shape[1] * out_shape[2] // (H * W)
    return 4 * B * queries * keys * channels


@register_flop_formula(_ops.linear_gelu)
def linear_gelu_flops(x: Shape, weight: Shape, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of the product of ``x (..., K)`` and ``weight (M, K)``."""
    return 2 * math.prod(x) * weight[0]


@register_flop_formula(_ops.embed_patches)
def embed_patches_flops(pixels: Shape, weight: Shape, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of the product of windows and ``weight (7, 7, 3, C)``."""
    return 2 * math.prod(weight[:3]) * math.prod(out_shape)


@register_flop_formula(_ops.mlp)
def mlp_flops(x: Shape, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of two linear layers of ``x (..., C)``. The first layer has the weight ``(N, C)``."""
    return 4 * math.prod(x) * rest[3][0]


@register_flop_formula(_ops.norm_linear)
def norm_linear_flops(delta: Shape, x: Any, position: Any, inner: Shape | None, *rest: Any, out_shape: Any) -> int:
    """Counts FLOPs of the layers of the norm, and the optional inner layer ``(C, K)`` of ``delta (..., K)``."""
    normed, out = out_shape
    projected = 0 if inner is None else 2 * math.prod(delta) * inner[0]
    return projected + 2 * math.prod(normed) * out[-1]


@register_flop_formula(_ops.grouped_mlp)
def grouped_mlp_flops(
    x: Shape, w1: Shape, b1: Shape, w2: Shape, b2: Shape, w3: Shape, *rest: Any, **options: Any
) -> int:
    """Counts FLOPs of three layers with weights ``(G, N, K)`` of tokens ``x (B, G, K)``."""
    return 2 * x[0] * sum(map(math.prod, (w1, w2, w3)))


@register_flop_formula(_ops.token_attention)
def token_attention_flops(query: Shape, key: Shape, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of attention of N queries, with the result ``(B, N, C)``, to keys ``(B or 1, M, C)``."""
    return 4 * math.prod(out_shape) * key[1]


@register_flop_formula([_ops.downsample_logits, _ops.downsample_map])
def downsample_flops(x: Shape, weight: Shape, *rest: Any, out_shape: Shape) -> int:
    """Counts FLOPs of the convolution with ``weight (N, k, k, C)``."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@register_flop_formula(_ops.depthwise_norm)
def depthwise_norm_flops(x: Shape, shift: Any, weight: Shape, *rest: Any, **options: Any) -> int:
    """Counts FLOPs of the depthwise convolution of ``x (B, H, W, C)`` with ``weight (k, k, C)``."""
    return 2 * math.prod(x) * math.prod(weight[:2])


@register_flop_formula(_ops.mask_logits)
def mask_logits_flops(x: Shape, features: Any, weights: Shape, *rest: Any, **options: Any) -> int:
    """Counts FLOPs of the products of each pixel of ``x (..., C)`` and ``weights (B, M, C)``."""
    return 2 * math.prod(x) * weights[1]


@register_flop_formula([torch.ops.aten._addmm_activation, torch.ops.aten.addmm_])
def addmm_flops(added: Shape, x: Shape, weight: Shape, *rest: Any, **options: Any) -> int:
    """Counts FLOPs of the product of ``x (M, K)`` and ``weight (K, N)``."""
    return 2 * math.prod(x) * weight[1]


# Torch has attention formulas only for GPUs.
@register_flop_formula([op for op in (_ops.rope_attention, _CPU_ATTENTION) if op not in flop_registry])
def attention_flops(query: Shape, key: Shape, value: Shape, *rest: Any, **options: Any) -> int:
    """Counts FLOPs of attention of ``query (B, H, N, D)`` to ``key (B, H, M, D)``, without rotations."""
    B, heads, N, D = query
    return 2 * B * heads * N * key[2] * (D + value[3])


@register_flop_formula(_ops.memory_attention, get_raw=True)
def memory_attention_flops(*tensors: Any, **options: Any) -> int:
    """Counts FLOPs of projections and attention, for valid tokens. Values are projected after sums. Synchronises."""
    query, pages, page_table, pointer_valid, pooling = (*tensors[:3], tensors[8], tensors[20:21])
    (_, heads, N, _), (width, m), value_width = query.shape, tensors[9].shape, tensors[11].shape[0]
    counts, pointers = (page_table >= 0).sum(dim=1) * pages.shape[1], int(pointer_valid.sum().item())
    scored = torch.where(counts > pages.shape[1], counts // 4, counts) if any(pooling) else counts
    keys, scores = (int(rows.sum().item()) + pointers for rows in (counts, scored))
    return 2 * keys * m * width + 2 * scores * N * (width + heads * m) + 2 * len(page_table) * N * m * value_width
