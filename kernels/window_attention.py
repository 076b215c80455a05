"""Attention in non-overlapping windows of a feature map (Hiera), with 2x2-pooled queries at stage changes."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, is_cpu_inference, use_opaque_op
from sam2fast.kernels._cpu import linear_in_inference as linear
from sam2fast.kernels._dispatch import FLOATS, current_backend, implementation_of
from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels._op import Op, schema
from sam2fast.kernels._sdpa import Attend, attention_by
from sam2fast.kernels.memory_attention import apply_rope, rope_attention

__all__ = [
    "pooled_window_attention",
    "pooled_window_attention_reference",
    "window_attention",
    "window_attention_reference",
]


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Multi-head self-attention inside each window of a projected feature map.

    The map is padded to whole windows at the right and the bottom. The original pads before the projection, so a
    padding position is a real key that projects to the bias alone.

    Args:
        qkv: ``(B, H, W, 3 * heads * d)`` projections, ordered (query, key, value), then head, then channel.
        bias: ``(3 * heads * d)`` bias of that projection, which is what a padding position projects to.
        num_heads: number of heads; scores are scaled by ``1 / sqrt(d)``.
        window_size: side of the square windows; 0 means one window, the whole map.
        q_stride: if given, queries are max-pooled by this stride inside each window, which it must divide.
        rope: cosines and sines ``(tokens, d / 2)`` of the positions in a window, which rotate queries and keys, by
            :func:`~sam2fast.kernels.memory_attention.rope_attention` on GPUs.

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
    _check_stride(window_size, q_stride)
    given = qkv, bias, num_heads, window_size, q_stride
    if custom := implementation_of("window_attention"):
        return custom(*given, rope)
    if rope is not None:
        # One launch rotates queries and keys.
        if qkv.is_cuda or (current_backend() == "triton" and not is_cpu_inference(qkv)):
            return window_attention_reference(*given, attend=lambda q, k, v: rope_attention(q, k, v, *rope))
        return window_attention_reference(*given, rope=rope)
    if _window_attention.uses_kernel(*given):
        return _window_attention.run(*given)
    if qkv.is_cpu and use_opaque_op():
        return _window_attention_eager(*given)
    if qkv.is_cuda and not window_size and current_backend() != "torch":
        return window_attention_reference(*given, attend=attention_by(sdpa_choice(qkv.device, qkv.dtype)))
    return window_attention_reference(*given)


def pooled_window_attention(
    projected: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Computes :func:`window_attention` with pooled queries, and pools the residual that was projected with them.

    Args:
        projected: Map ``(B, H, W, 4 * heads * d)`` of queries, keys, values and the residual.
        bias: ``(3 * heads * d)`` of queries, keys and values.
        num_heads, window_size, q_stride: As of :func:`window_attention`.

    Returns:
        The attention and the residual's maxima, both ``(B, H', W', heads * d)``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    given, channels = (projected, bias, num_heads, window_size, q_stride), len(bias)
    if projected.ndim != 4 or 3 * projected.shape[3] != 4 * channels or channels % (3 * num_heads):
        raise ValueError(
            f"expected projected (B, H, W, 4 * {num_heads} * d) and bias (3 * {num_heads} * d), "
            f"got {tuple(projected.shape)} and {tuple(bias.shape)}"
        )
    _check_stride(window_size, q_stride)
    if implementation_of("window_attention") is None and _pooled_window_attention.uses_kernel(*given):
        return _pooled_window_attention.run(*given)
    return window_attention(projected[..., :channels], *given[1:]), maxima(projected[..., channels:], q_stride)


def _check_stride(window_size: int, q_stride: tuple[int, int] | None) -> None:
    if q_stride and window_size and (window_size % q_stride[0] or window_size % q_stride[1]):
        raise ValueError(f"the query stride {q_stride} does not divide the window of {window_size}")


# ---- reference implementation ----


def maxima(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Returns the maxima of a map ``(B, H, W, C)``. Torch's pooling would write indices of eight bytes, too."""
    H, W = (n // s * s for n, s in zip(x.shape[1:3], stride, strict=True))
    return x[:, :H, :W].unflatten(2, (-1, stride[1])).unflatten(1, (-1, stride[0])).amax((2, 4))


def pooled_window_attention_reference(
    projected: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`pooled_window_attention`."""
    channels = len(bias)
    attended = window_attention_reference(projected[..., :channels], bias, num_heads, window_size, q_stride)
    return attended, maxima(projected[..., channels:], q_stride)


# Rows of the score matrix that are held at once: 512 x 4096 fp32 are 8 MiB, about a core's share of the last-level
# cache.
ROWS_AT_ONCE = 512
LONG = 1024  # number of keys from which the queries are split


def window_attention_reference(
    qkv: Tensor,
    bias: Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    attend: Attend | None = None,
) -> Tensor:
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
    if rope is not None:
        both = tiles.flatten(1, 2)[..., : 2 * channels // 3].unflatten(-1, (2, num_heads, -1))
        query, key = _rotated(both, *rope).unbind(2)
    if key.shape[1] >= LONG and is_cpu_inference(query):
        out = _attention_by_rows(query, key, value)
    else:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        if attend is None:
            attend = F.scaled_dot_product_attention
            attend = partial(in_float32, attend) if emulates_bfloat16(q, k) else attend
        out = attend(q, k, v).transpose(1, 2)
    out = out.reshape(B, rows, columns, height, width, -1).transpose(2, 3)
    out = out.reshape(B, rows * height, columns * width, -1)
    return out[:, :H, :W]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``x (N, tokens, 2, heads, d)`` as :func:`apply_rope` does."""
    if not is_cpu_inference(x):
        return apply_rope(x.permute(2, 3, 0, 1, 4), cos, sin).permute(2, 3, 0, 1, 4)
    # Products of complex numbers take a third of the time.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)[:, None, None]).flatten(-2).to(x.dtype)


def _to_windows(qkv: Tensor, bias: Tensor, w: int) -> Tensor:
    """``(B, H, W, C)`` to ``(B, nH, nW, w, w, C)``; positions outside the map hold ``bias``."""
    B, H, W, C = qkv.shape
    pad_bottom, pad_right = -H % w, -W % w
    if pad_bottom or pad_right:
        padded = bias.to(qkv.dtype).expand(B, H + pad_bottom, W + pad_right, C).contiguous()
        padded[:, :H, :W] = qkv
        qkv = padded
    return qkv.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)


def _attention_by_rows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of ``(N, tokens, heads, d)`` tensors, one block of queries at a time; scores are fp32."""
    N, tokens, heads, d = query.shape
    out = torch.empty_like(query)
    with torch.autocast("cpu", enabled=False):
        for n in range(N):
            for head in range(heads):
                keys = key[n, :, head].float() * d**-0.5  # (M, d)
                values = value[n, :, head].t().contiguous()  # (d, M)
                for start in range(0, tokens, ROWS_AT_ONCE):
                    rows = slice(start, start + ROWS_AT_ONCE)
                    scores = linear(query[n, rows, head].float().contiguous(), (keys, None))
                    out[n, rows, head] = linear(torch.softmax(scores, dim=-1).to(values.dtype), (values, None))
    return out


# ---- operator ----

# Channels of a head. In fp32 wider heads need 112 KiB of shared memory where windows are padded, more than the 99 KiB
# of compute capabilities 8.6, 8.9 and 12.0. In fp16 and bf16 they need more registers than there are. Hiera's largest
# heads have 96 channels.
WIDEST = 96


def shape_class(d: int, window_size: int) -> str:
    """The shape class of heads of ``d`` channels in these windows."""
    return f"{d}w{window_size}" if window_size else "global"


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Tiles of queries and keys; ``SDPA`` leaves the whole map (``global``) to torch, as numbered in ``_sdpa.py``.

    With ``ROWS_PER_WARP`` tiles of fewer queries have fewer warps, with ``PIECES`` of 1 heads are one piece.
    """
    if dtype == "float32":
        # On an H100 the smaller tiles, which are multiplied without wgmma, take 0.34 to 0.66 of the others' time. On
        # sm_100 they raise bounds 2.3 to 2.8 times.
        rows, warps = (32, 2) if arch in ("sm_90", "sm_100", "sm_103") else (64, 8)
        tile = {"BLOCK_M": rows, "BLOCK_N": 32} | ({"SDPA": 1} if shape == "global" else {})
        return LaunchConfig(tile, {"num_warps": warps, "num_stages": 1})
    # A second piece of a head has rows of 32 or 64 bytes. For wgmma with such rows the assembler of CUDA 12.8 computes
    # wrong addresses (bench/sass_hazards.py): results were wrong on an H100, or the access illegal.
    whole = {"PIECES": 1} if arch == "sm_90" else {}
    if shape == "global":
        return LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 32, "SDPA": 1} | whole, {"num_warps": 8, "num_stages": 3})
    # Two programs of four warps fit where one of eight does. That raises bounds up to 2.6 times on sm_80, 2.3 times on
    # sm_90; sm_86 and sm_89 have the instructions of sm_80. sm_120 would spill.
    # Windows of 14 and 16 have several blocks of keys. Blocks of 32 that are prefetched raise the bounds of tiles of 64
    # by up to 1.8, for 72 channels also since two programs of eight warps fit.
    if arch == "sm_90" and int(shape.partition("w")[2] or 0) > 8:
        tile = {"BLOCK_M": 128, "BLOCK_N": 32, "ROWS_PER_WARP": 16} | whole
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 3})
    if arch in ("sm_80", "sm_86", "sm_89", "sm_90"):
        tile = {"BLOCK_M": 64, "BLOCK_N": 64, "ROWS_PER_WARP": 16} | whole
        return LaunchConfig(tile, {"num_warps": 4, "num_stages": 1})
    if arch == "sm_100":  # with 64 keys, tensor memory has scores in other threads than their rows' scales
        return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 32, "ROWS_PER_WARP": 16}, {"num_warps": 4, "num_stages": 1})
    return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 64}, {"num_warps": 8, "num_stages": 1})


def _unsupported(qkv: Tensor, bias: Tensor, *given: Any) -> str | None:
    num_heads, window_size, q_stride = given
    d, (H, W) = len(bias) // (3 * num_heads), qkv.shape[1:3]
    if qkv.dtype not in FLOATS:
        return f"does not take {qkv.dtype}"
    if d > WIDEST or d % 8:
        return f"takes heads of a multiple of 8 and at most {WIDEST} channels, and got {d}"
    if q_stride and tuple(q_stride) != (2, 2):
        return f"pools queries by 2 x 2 alone, and got {tuple(q_stride)}"
    if q_stride and not window_size and (H % 2 or W % 2):
        return f"pools maps of even sides alone, and got {H} x {W}"
    return None


def sdpa_choice(device: torch.device, dtype: torch.dtype) -> int:
    """The configuration's choice for attention over the whole map, as numbered in ``_sdpa.py``; 0 is our kernel."""
    chosen = launch_config("window_attention", config, torch.empty(0, dtype=dtype, device=device), "global")
    return chosen.meta.get("SDPA", 0)


sdpa_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant of a graph


def prefers_sdpa(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the configuration prefers torch for attention over the whole map."""
    return sdpa_choice(device, dtype) != 0


def _reference(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None) -> Tensor:
    return window_attention_reference(qkv, bias, num_heads, window_size, q_stride)


def _fake(qkv: Tensor, bias: Tensor, *given: Any) -> Tensor:
    down, across = given[2] or (1, 1)
    B, H, W, _ = qkv.shape
    return qkv.new_empty(B, H // down, W // across, bias.shape[0] // 3)


def _fake_pooled(*given: Any) -> tuple[Tensor, Tensor]:
    return _fake(*given), _fake(*given)


_OPTIONS: dict[str, Any] = {
    "unsupported": _unsupported,
    "prefers_torch": lambda qkv, _1, _2, window_size, _3: not window_size and prefers_sdpa(qkv.device, qkv.dtype),
    "kind": lambda qkv, _, num_heads, window_size, q_stride: (qkv.shape[-1], num_heads, window_size, q_stride is None),
    "launches": "window_attention",
}
_window_attention = Op(
    "window_attention", _reference, "window_attention_triton.window_attention_triton", fake=_fake, **_OPTIONS
)
_pooled_window_attention = Op(
    "pooled_window_attention",
    pooled_window_attention_reference,
    "window_attention_triton.pooled_window_attention_triton",
    fake=_fake_pooled,
    **_OPTIONS,
)


# The reference implementation as one node of a graph for the CPU: its blocks fit the cache, a compiler's do not.
@torch.library.custom_op("sam2fast::window_attention_eager", mutates_args=(), schema=schema(_reference))
def _window_attention_eager(
    qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None
) -> Tensor:
    return _reference(qkv, bias, num_heads, window_size, q_stride).contiguous()


_window_attention_eager.register_fake(_fake)
