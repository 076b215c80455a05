"""Computes Hiera's attention in non-overlapping windows of a feature map, with optional 2x2 pooling of queries."""

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
    """Computes multi-head self-attention within each window of a projected feature map.

    The map is padded at the right and the bottom to a multiple of the window size. SAM 2 pads the map with zeros before
    the projection. So tokens attend to padding positions, and the query, key and value of padding are the bias.

    Args:
        qkv: Projections ``(B, H, W, 3 * heads * d)``, ordered by (query, key, value), then head, then channel.
        bias: Bias ``(3 * heads * d)`` of the projection, used as the projection of padding.
        num_heads: Number of heads. Attention scores are scaled by ``1 / sqrt(d)``.
        window_size: Side of the square windows. If 0, the whole map is a single window.
        q_stride: Stride of max-pooling of the queries within each window, or None. The stride must divide
            ``window_size``.
        rope: Cosines and sines ``(tokens, d / 2)`` that rotate queries and keys by their positions in a window, or
            None. On GPUs with ``rope``, :func:`~sam2fast.kernels.memory_attention.rope_attention` computes the
            attention.

    Returns:
        Tensor ``(B, H', W', heads * d)`` in the dtype of ``qkv``, with ``H', W' = H // stride, W // stride``.

    Raises:
        ValueError: If the shapes do not match.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleBlock.forward``.
    """
    args = qkv, bias, num_heads, window_size, q_stride
    _check("qkv", 3, *args)
    if custom := implementation_of("window_attention"):
        return custom(*args, rope)
    if rope is not None:
        # The kernel of rope_attention rotates queries and keys in one launch.
        if qkv.is_cuda or (current_backend() == "triton" and not is_cpu_inference(qkv)):
            return window_attention_reference(*args, attend=lambda q, k, v: rope_attention(q, k, v, *rope))
        return window_attention_reference(*args, rope=rope)
    if _window_attention.uses_kernel(*args):
        return _window_attention.run(*args)
    if qkv.is_cpu and use_opaque_op():
        return _window_attention_eager(*args)
    if qkv.is_cuda and not window_size and current_backend() != "torch":
        return window_attention_reference(*args, attend=attention_by(sdpa_choice(qkv.device, qkv.dtype)))
    return window_attention_reference(*args)


def pooled_window_attention(
    projected: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Computes :func:`window_attention` with pooled queries, and max-pools a residual from the same projection.

    Args:
        projected: Map ``(B, H, W, 4 * heads * d)`` of queries, keys, values and the residual.
        bias: Bias ``(3 * heads * d)`` of queries, keys and values.
        num_heads, window_size, q_stride: Arguments of :func:`window_attention`.

    Returns:
        The attention and the pooled residual, both ``(B, H', W', heads * d)``.

    Raises:
        ValueError: If the shapes do not match.
    """
    args, channels = (projected, bias, num_heads, window_size, q_stride), len(bias)
    _check("projected", 4, *args)
    if implementation_of("window_attention") is None and _pooled_window_attention.uses_kernel(*args):
        return _pooled_window_attention.run(*args)
    return window_attention(projected[..., :channels], *args[1:]), maxima(projected[..., channels:], q_stride)


def _check(
    name: str, parts: int, x: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None
) -> None:
    """Checks a map ``x`` of ``parts`` projections per position, named ``name`` in errors, and the other arguments."""
    if x.ndim != 4 or bias.ndim != 1 or 3 * x.shape[3] != parts * len(bias) or len(bias) % (3 * num_heads):
        raise ValueError(
            f"expected {name} (B, H, W, {parts} * {num_heads} * d) and bias (3 * {num_heads} * d), "
            f"got {tuple(x.shape)} and {tuple(bias.shape)}"
        )
    if q_stride and window_size and (window_size % q_stride[0] or window_size % q_stride[1]):
        raise ValueError(f"the query stride {q_stride} does not divide the window of {window_size}")


# ---- reference implementation ----


def maxima(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Max-pools a map ``(B, H, W, C)``. Unlike torch's max pooling, writes no indices of eight bytes."""
    H, W = (n // s * s for n, s in zip(x.shape[1:3], stride, strict=True))
    return x[:, :H, :W].unflatten(2, (-1, stride[1])).unflatten(1, (-1, stride[0])).amax((2, 4))


def pooled_window_attention_reference(
    projected: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`pooled_window_attention`."""
    channels = len(bias)
    output = window_attention_reference(projected[..., :channels], bias, num_heads, window_size, q_stride)
    return output, maxima(projected[..., channels:], q_stride)


# Number of queries per block of attention scores on the CPU: for 4,096 keys, a block has 8 MiB of fp32 scores, about
# one core's share of the last-level cache.
ROWS_AT_ONCE = 512
LONG = 1024  # minimum number of keys for which the CPU computes attention in blocks of queries


def window_attention_reference(
    qkv: Tensor,
    bias: Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """Reference implementation of :func:`window_attention`: partitions the padded map, and attends within windows.

    Args:
        attend: Function that computes attention of ``(N, heads, tokens, d)`` tensors. If None, torch's attention.
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
    """Rotates ``x (N, tokens, 2, heads, d)`` with the results of :func:`apply_rope`."""
    if not is_cpu_inference(x):
        return apply_rope(x.permute(2, 3, 0, 1, 4), cos, sin).permute(2, 3, 0, 1, 4)
    # Multiplying complex numbers takes a third of the time of apply_rope.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)[:, None, None]).flatten(-2).to(x.dtype)


def _to_windows(qkv: Tensor, bias: Tensor, w: int) -> Tensor:
    """Partitions ``(B, H, W, C)`` into windows ``(B, nH, nW, w, w, C)``. Positions outside the map contain ``bias``."""
    B, H, W, C = qkv.shape
    pad_bottom, pad_right = -H % w, -W % w
    if pad_bottom or pad_right:
        padded = bias.to(qkv.dtype).expand(B, H + pad_bottom, W + pad_right, C).contiguous()
        padded[:, :H, :W] = qkv
        qkv = padded
    return qkv.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)


def _attention_by_rows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Computes attention of ``(N, tokens, heads, d)`` tensors in blocks of queries, with fp32 scores."""
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

# Maximum number of channels of a head. Hiera's largest heads have 96. In fp32, wider heads need 112 KiB of shared
# memory for padded windows, but GPUs of compute capability 8.6, 8.9 and 12.0 have 99 KiB. In fp16 and bf16, wider heads
# need too many registers.
WIDEST = 96


def shape_class(d: int, window_size: int) -> str:
    """Returns the shape class of attention, such as "96w8" (channels of a head, window size), or "global"."""
    return f"{d}w{window_size}" if window_size else "global"


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the tiles of queries and keys.

    ``SDPA`` selects torch's backend (see ``_sdpa.py``) for attention over the whole map (``global``). With
    ``ROWS_PER_WARP``, small tiles of queries use fewer warps. With ``PIECES`` of 1, channels of a head are not split.
    Bounds are upper limits of the kernel's speed, computed by ``make sass``.
    """
    if dtype == "float32":
        # On an H100, tiles of 32 queries take 0.34 to 0.66 of the time of tiles of 64 queries, although small tiles do
        # not use wgmma. On sm_100, tiles of 32 queries raise the bounds 2.3 to 2.8 times.
        rows, warps = (32, 2) if arch in ("sm_90", "sm_100", "sm_103") else (64, 8)
        tile = {"BLOCK_M": rows, "BLOCK_N": 32} | ({"SDPA": 1} if shape == "global" else {})
        return LaunchConfig(tile, {"num_warps": warps, "num_stages": 1})
    # A second piece of a head has rows of 32 or 64 bytes. For wgmma with such rows, CUDA 12.8's assembler generates
    # wrong addresses (bench/sass_hazards.py). On an H100, the wrong addresses gave wrong results or illegal accesses.
    whole = {"PIECES": 1} if arch == "sm_90" else {}
    if shape == "global":
        return LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 32, "SDPA": 1} | whole, {"num_warps": 8, "num_stages": 3})
    # Two programs of four warps fit on a multiprocessor, instead of one program of eight warps. Two programs raise
    # bounds up to 2.6 times on sm_80 and 2.3 times on sm_90. sm_86 and sm_89 have the instructions of sm_80. On sm_120,
    # four warps would spill registers. Windows of 14 and 16 have several blocks of keys. On sm_90, prefetched blocks of
    # 32 keys raise the bounds up to 1.8 times over blocks of 64 keys. With 72 channels, a part of the gain comes from
    # fitting two programs of eight warps on a multiprocessor.
    if arch == "sm_90" and int(shape.partition("w")[2] or 0) > 8:
        tile = {"BLOCK_M": 128, "BLOCK_N": 32, "ROWS_PER_WARP": 16} | whole
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 3})
    if arch in ("sm_80", "sm_86", "sm_89", "sm_90"):
        tile = {"BLOCK_M": 64, "BLOCK_N": 64, "ROWS_PER_WARP": 16} | whole
        return LaunchConfig(tile, {"num_warps": 4, "num_stages": 1})
    if arch == "sm_100":  # with 64 keys, tensor memory assigns scores and row scales to different threads
        return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 32, "ROWS_PER_WARP": 16}, {"num_warps": 4, "num_stages": 1})
    return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 64}, {"num_warps": 8, "num_stages": 1})


def _unsupported(qkv: Tensor, bias: Tensor, *rest: Any) -> str | None:
    num_heads, window_size, q_stride = rest
    d, (H, W) = len(bias) // (3 * num_heads), qkv.shape[1:3]
    if qkv.dtype not in FLOATS:
        return f"does not support {qkv.dtype}"
    if d > WIDEST or d % 8:
        return f"supports heads of at most {WIDEST} channels, in multiples of 8, got {d}"
    if q_stride and tuple(q_stride) != (2, 2):
        return f"pools queries only by 2 x 2, got {tuple(q_stride)}"
    if q_stride and not window_size and (H % 2 or W % 2):
        return f"pools only maps with even sides, got {H} x {W}"
    return None


def sdpa_choice(device: torch.device, dtype: torch.dtype) -> int:
    """Returns the configured backend for attention over the whole map: a number of ``_sdpa.py``, 0 for our kernel."""
    launch = launch_config("window_attention", config, torch.empty(0, dtype=dtype, device=device), "global")
    return launch.meta.get("SDPA", 0)


sdpa_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant for torch.compile


def _reference(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None) -> Tensor:
    return window_attention_reference(qkv, bias, num_heads, window_size, q_stride)


def _fake(qkv: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    down, across = rest[2] or (1, 1)
    B, H, W, _ = qkv.shape
    return qkv.new_empty(B, H // down, W // across, bias.shape[0] // 3)


_OPTIONS: dict[str, Any] = {
    "unsupported": _unsupported,
    "prefers_torch": lambda qkv, _1, _2, window_size, _3: not window_size and sdpa_choice(qkv.device, qkv.dtype) != 0,
    "compile_key": lambda qkv, _, *rest: (qkv.shape[-1], *rest[:2], rest[2] is None),
    "launches": "window_attention",
}
_window_attention = Op(
    "window_attention", _reference, "window_attention_triton.window_attention_triton", fake=_fake, **_OPTIONS
)
_pooled_window_attention = Op(
    "pooled_window_attention",
    pooled_window_attention_reference,
    "window_attention_triton.pooled_window_attention_triton",
    fake=lambda *args: (_fake(*args), _fake(*args)),
    **_OPTIONS,
)


# Operator that keeps the reference implementation as one node of a CPU graph. Score blocks of the reference
# implementation fit the cache, but a compiler would generate blocks that are too large.
_window_attention_eager = torch.library.custom_op(
    "sam2fast::window_attention_eager",
    lambda *args: _reference(*args).contiguous(),
    mutates_args=(),
    schema=schema(_reference),
)
_window_attention_eager.register_fake(_fake)
