"""Attention in non-overlapping windows of a feature map (Hiera), with 2x2-pooled queries at stage changes."""

import torch

from sam2fast.kernels._cpu import use_opaque_op
from sam2fast.kernels._dispatch import current_backend, implementation_of, should_use_kernel, use_triton
from sam2fast.kernels._operators import call_with_gradient
from sam2fast.kernels.window_attention.operators import window_attention_eager, window_attention_operator
from sam2fast.kernels.window_attention.reference import window_attention_reference
from sam2fast.kernels.window_attention.sdpa import attention_by
from sam2fast.kernels.window_attention.shapes import prefers_sdpa, sdpa_choice, unsupported_reason

__all__ = ["window_attention", "window_attention_reference"]


def window_attention(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Multi-head self-attention inside each window of a projected feature map.

    The map is padded to whole windows at the right and the bottom. The original pads before the projection, so a
    padding position is a real key that projects to the bias alone.

    Args:
        qkv: ``(B, H, W, 3 * heads * d)`` projections, ordered (query, key, value), then head, then channel.
        bias: ``(3 * heads * d)`` bias of that projection, which is what a padding position projects to.
        num_heads: number of heads; scores are scaled by ``1 / sqrt(d)``.
        window_size: side of the square windows; 0 means one window, the whole map.
        q_stride: if given, queries are max-pooled by this stride inside each window, which it must divide.

    Returns:
        ``(B, H', W', heads * d)`` in the dtype of ``qkv``; ``H', W' = H // stride, W // stride``.

    Raises:
        ValueError: the shapes do not fit together.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleBlock.forward``.
    """
    if qkv.ndim != 4 or bias.shape != qkv.shape[-1:] or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"expected qkv (B, H, W, 3 * {num_heads} * d) and bias (3 * {num_heads} * d), "
            f"got {tuple(qkv.shape)} and {tuple(bias.shape)}"
        )
    if q_stride and window_size and (window_size % q_stride[0] or window_size % q_stride[1]):
        raise ValueError(f"the query stride {q_stride} does not divide the window of {window_size}")
    if custom := implementation_of("window_attention"):
        return custom(qkv, bias, num_heads, window_size, q_stride)
    reason = unsupported_reason(qkv, num_heads, window_size, q_stride)
    has_kernel = use_triton("window_attention", qkv, bias, unsupported_reason=reason)
    if has_kernel and _should_use_kernel(qkv, bias, window_size):
        return call_with_gradient(window_attention_operator, qkv, bias, num_heads, window_size, q_stride)
    if qkv.is_cpu and use_opaque_op():
        return window_attention_eager(qkv, bias, num_heads, window_size, q_stride)
    if qkv.is_cuda and not window_size and current_backend() != "torch":
        attend = attention_by(sdpa_choice(qkv.device, qkv.dtype))
        return window_attention_reference(qkv, bias, num_heads, window_size, q_stride, attend)
    return window_attention_reference(qkv, bias, num_heads, window_size, q_stride)


def _should_use_kernel(qkv: torch.Tensor, bias: torch.Tensor, window_size: int) -> bool:
    """False where gradients are needed or torch is faster over the whole map, unless the backend is ``triton``."""
    if current_backend() == "triton":
        return True
    return should_use_kernel(qkv, bias) and (bool(window_size) or not prefers_sdpa(qkv.device, qkv.dtype))
