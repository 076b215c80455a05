"""Reference implementation of window attention."""

import torch
import torch.nn.functional as F

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, is_cpu_inference, linear
from sam2fast.kernels.window_attention.sdpa import Attend

# Rows of the score matrix that are held at once: 512 x 4096 fp32 are 8 MiB, about a core's share of the last-level
# cache.
ROWS_AT_ONCE = 512
LONG = 1024  # number of keys from which the queries are split


def window_attention_reference(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
    attend: Attend | None = None,
) -> torch.Tensor:
    """Reference implementation of :func:`window_attention`: cuts the padded map into windows, attends, and merges them.

    Args:
        attend: computes the attention of ``(N, heads, tokens, d)`` tensors; torch's default if left out.
    """
    B, H, W, _ = qkv.shape
    if window_size:
        tiles = _to_windows(qkv, bias, window_size)  # (B, nH, nW, w, w, 3·heads·d)
    else:
        tiles = qkv[:, None, None]
    _, rows, columns, height, width, channels = tiles.shape
    tiles = tiles.reshape(B * rows * columns, height, width, channels)
    query, key, value = tiles.chunk(3, dim=-1)
    if q_stride:
        query = F.max_pool2d(query.permute(0, 3, 1, 2), q_stride).permute(0, 2, 3, 1)
        H, W = H // q_stride[0], W // q_stride[1]
        height, width = query.shape[1:3]
    query, key, value = (x.flatten(1, 2).unflatten(-1, (num_heads, -1)) for x in (query, key, value))
    out = _attention(query, key, value, attend)
    out = out.reshape(B, rows, columns, height, width, -1).transpose(2, 3)
    out = out.reshape(B, rows * height, columns * width, -1)
    return out[:, :H, :W]


def _to_windows(qkv: torch.Tensor, bias: torch.Tensor, w: int) -> torch.Tensor:
    """``(B, H, W, C)`` to ``(B, nH, nW, w, w, C)``; positions outside the map hold ``bias``."""
    B, H, W, C = qkv.shape
    pad_bottom, pad_right = -H % w, -W % w
    if pad_bottom or pad_right:
        padded = bias.to(qkv.dtype).expand(B, H + pad_bottom, W + pad_right, C).contiguous()
        padded[:, :H, :W] = qkv
        qkv = padded
    return qkv.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attend: Attend | None) -> torch.Tensor:
    """Softmax attention of ``(N, tokens, heads, d)`` tensors."""
    if is_cpu_inference(query) and key.shape[1] >= LONG:
        return _attention_by_rows(query, key, value)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    attend = attend or F.scaled_dot_product_attention
    if emulates_bfloat16(q, k):
        return in_float32(attend, q, k, v).transpose(1, 2)
    return attend(q, k, v).transpose(1, 2)


def _attention_by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The same for long inputs on the CPU, one block of queries at a time; scores are fp32."""
    N, tokens, heads, d = query.shape
    out = torch.empty_like(query)
    with torch.autocast("cpu", enabled=False):
        for n in range(N):
            for head in range(heads):
                keys = key[n, :, head].float() * d**-0.5  # (M, d)
                values = value[n, :, head].t().contiguous()  # (d, M)
                for start in range(0, tokens, ROWS_AT_ONCE):
                    rows = slice(start, start + ROWS_AT_ONCE)
                    scores = linear(query[n, rows, head].float().contiguous(), keys)
                    out[n, rows, head] = linear(torch.softmax(scores, dim=-1).to(values.dtype), values)
    return out
