"""Window attention directly on the projected map: windows are index arithmetic, without copies.

A program has a tile of queries of one head and loops over the keys of their window. It takes several small windows at
once, and masks the scores between different windows. Positions that pad the map to whole windows are real keys and
values: the original pads the map before the projection, so that they hold its bias.

Tile sizes are powers of two. A head is loaded as one piece of ``D1`` channels, or as two of ``D1`` and ``D2`` where
that wastes less: 72 channels are 64 + 16 instead of 128. A configuration with ``PIECES`` of 1 forbids two.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math
from typing import Any

import torch
import triton
import triton.language as tl

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, MAX_PROGRAMS, LaunchConfig, launch_config, product_precision
from sam2fast.kernels.window_attention import config, shape_class


@triton.jit
def _position(
    token,  # index in its window, row-major
    window,  # index in the image, row-major
    columns,  # windows per row
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    y = (window // columns) * WINDOW_H + token // WINDOW_W
    x = (window % columns) * WINDOW_W + token % WINDOW_W
    return y, x


@triton.jit
def _load_piece(
    qkv,  # (H·W, ROW) of one image
    bias,  # (3·C)
    row,  # (BLOCK) position in the map times ROW
    valid,  # (BLOCK) bool; the others are 0
    inside,  # (BLOCK) bool; the others hold the bias
    first,  # channel
    SIZE: tl.constexpr,
    PIECE: tl.constexpr,  # power of two, at least SIZE
    PAD: tl.constexpr,
):
    channel = tl.arange(0, PIECE)
    channel_mask = channel < SIZE
    mask = (valid & inside)[:, None]
    if SIZE < PIECE:
        mask = mask & channel_mask[None, :]
    x = tl.load(qkv + row[:, None] + (first + channel)[None, :], mask=mask, other=0.0)
    if PAD:
        b = tl.load(bias + first + channel, mask=channel_mask, other=0.0).to(x.dtype)
        x = tl.where((valid & (inside == 0))[:, None], b[None, :], x)
    return x


@triton.jit
def _load_query(
    qkv, bias,
    token,  # (BLOCK_M) query of its window
    window,  # (BLOCK_M)
    columns, H, W,
    valid,  # (BLOCK_M) bool
    first,
    ROW: tl.constexpr,
    SIZE: tl.constexpr, PIECE: tl.constexpr,
    WINDOW: tl.constexpr, POOL: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """A piece of each query, ``(BLOCK_M, PIECE)``; with POOL the largest of its 2 x 2 positions."""
    if POOL:
        query = tl.full([token.shape[0], PIECE], float("-inf"), tl.float32)
        for corner in tl.static_range(4):
            if WINDOW == 0:
                y = 2 * (token // (W // 2)) + corner // 2
                x = 2 * (token % (W // 2)) + corner % 2
            else:
                y, x = _position(token, window, columns, WINDOW // 2, WINDOW // 2)
                y = 2 * y + corner // 2
                x = 2 * x + corner % 2
            piece = _load_piece(qkv, bias, (y * W + x) * ROW, valid, (y < H) & (x < W), first, SIZE, PIECE, PAD)
            query = tl.maximum(query, piece.to(tl.float32))
        return tl.where(valid[:, None], query, 0.0).to(qkv.dtype.element_ty)
    else:
        if WINDOW == 0:
            return _load_piece(qkv, bias, token * ROW, valid, valid, first, SIZE, PIECE, PAD)
        else:
            y, x = _position(token, window, columns, WINDOW, WINDOW)
            return _load_piece(qkv, bias, (y * W + x) * ROW, valid, (y < H) & (x < W), first, SIZE, PIECE, PAD)


@triton.jit
def _window_attention_kernel(
    qkv,  # (B, H, W, 3·C), the first channels of a contiguous map with ROW channels
    bias,  # (3·C)
    out,  # (B, H', W', C)
    H, W,
    rows, columns,  # of windows
    positions,  # of the map; the keys where it is one window
    tiles,  # of queries, for one program's windows
    scale,  # of the scores, times log2(e)
    C: tl.constexpr,  # heads · SIZE
    ROW: tl.constexpr,  # from one position to the next, at least 3·C
    D: tl.constexpr,  # channels of a head
    D1: tl.constexpr, D2: tl.constexpr,  # its pieces; D2 may be 0
    WINDOW: tl.constexpr,  # side; 0 for the whole map as one window
    GROUP: tl.constexpr,  # windows of one program
    POOL: tl.constexpr,  # queries by 2 x 2
    PAD: tl.constexpr,  # windows reach beyond the map
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    SIZE1: tl.constexpr = D if D2 == 0 else D1
    SIZE2: tl.constexpr = D - SIZE1
    STRIDE: tl.constexpr = 2 if POOL else 1
    # As constants they are cheap to divide by.
    keys = WINDOW * WINDOW if WINDOW > 0 else positions
    queries = WINDOW * WINDOW // (STRIDE * STRIDE) if WINDOW > 0 else positions // (STRIDE * STRIDE)
    group = tl.program_id(0)
    first = tl.program_id(1) * D
    b = (tl.program_id(2) // tiles).to(tl.int64)
    qkv += b * H * W * ROW
    windows = rows * columns

    m = (tl.program_id(2) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    query_group = m // queries
    query_window = group * GROUP + query_group
    valid = (m < GROUP * queries) & (query_window < windows)
    token = m % queries
    query1 = _load_query(qkv, bias, token, query_window, columns, H, W, valid, first, ROW, SIZE1, D1, WINDOW, POOL, PAD)
    out1 = tl.zeros([BLOCK_M, D1], tl.float32)
    if D2 > 0:
        query2 = _load_query(
            qkv, bias, token, query_window, columns, H, W, valid, first + D1, ROW, SIZE2, D2, WINDOW, POOL, PAD
        )
        out2 = tl.zeros([BLOCK_M, D2], tl.float32)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in tl.range(0, GROUP * keys, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if WINDOW == 0:
            key_mask = n < keys
            inside = key_mask
            row = n * ROW
        else:
            key_group = n // keys
            key_window = group * GROUP + key_group
            key_mask = (n < GROUP * keys) & (key_window < windows)
            y, x = _position(n % keys, key_window, columns, WINDOW, WINDOW)
            inside = (y < H) & (x < W)
            row = (y * W + x) * ROW
        key = _load_piece(qkv, bias, row, key_mask, inside, C + first, SIZE1, D1, PAD)
        scores = tl.dot(query1, tl.trans(key), input_precision=PRECISION)
        if D2 > 0:
            key = _load_piece(qkv, bias, row, key_mask, inside, C + first + D1, SIZE2, D2, PAD)
            scores = tl.dot(query2, tl.trans(key), scores, input_precision=PRECISION)
        seen = key_mask[None, :]
        if GROUP > 1:
            seen = seen & (query_group[:, None] == key_group[None, :])
        # Finite: a row of a tile that is no query may have no key.
        scores = tl.where(seen, scores * scale, -1.0e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.math.exp2(highest - higher)
        weights = tl.math.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
        weights = weights.to(qkv.dtype.element_ty)
        value = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first, SIZE1, D1, PAD)
        out1 = tl.dot(weights, value, out1 * shrink[:, None], input_precision=PRECISION)
        if D2 > 0:
            value = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first + D1, SIZE2, D2, PAD)
            out2 = tl.dot(weights, value, out2 * shrink[:, None], input_precision=PRECISION)

    height = H // STRIDE
    width = W // STRIDE
    if WINDOW == 0:
        position = token
        mask = valid
    else:
        y, x = _position(token, query_window, columns, WINDOW // STRIDE, WINDOW // STRIDE)
        position = y * width + x
        mask = valid & (y < height) & (x < width)
    target = out + b * height * width * C + (position * C + first)[:, None]
    channel1 = tl.arange(0, D1)
    dtype = out.dtype.element_ty
    tl.store(
        target + channel1[None, :], (out1 / total[:, None]).to(dtype), mask=mask[:, None] & (channel1 < SIZE1)[None, :]
    )
    if D2 > 0:
        channel2 = tl.arange(0, D2)
        tl.store(
            target + (D1 + channel2)[None, :],
            (out2 / total[:, None]).to(dtype),
            mask=mask[:, None] & (channel2 < SIZE2)[None, :],
        )


def pieces(d: int, most: int = 2) -> tuple[int, int]:
    """Sizes of the one or two pieces of a head of ``d`` channels; the second is 0 if there is one."""
    whole = max(16, triton.next_power_of_2(d))
    first = whole if whole == d or d < 16 or most == 1 else whole // 2
    second = max(16, triton.next_power_of_2(d - first)) if first < d else 0
    return (first, second) if first + second < whole else (whole, 0)


def group_of(window: int, block_n: int) -> int:
    """Windows per program, so that their keys fill a block."""
    return max(1, block_n // window**2) if window else 1


def rows_of(block_m: int, group: int, queries: int) -> int:
    """Queries per tile: not more than there are."""
    return min(block_m, max(16, triton.next_power_of_2(group * queries)))


def options_of(chosen: LaunchConfig, block_m: int) -> dict[str, int]:
    """The options; where the meta has ``ROWS_PER_WARP``, fewer warps for tiles of fewer queries."""
    rows, most = chosen.meta.get("ROWS_PER_WARP", 0), chosen.options["num_warps"]
    return {**chosen.options, "num_warps": max(1, min(most, block_m // rows))} if rows else dict(chosen.options)


def constants(
    chosen: LaunchConfig, heads: int, d: int, window: int, pool: bool, pad: bool, precision: str
) -> dict[str, Any]:
    """The kernel's constexpr arguments."""
    D1, D2 = pieces(d, chosen.meta.get("PIECES", 2))
    group = group_of(window, chosen.meta["BLOCK_N"])
    block_m = chosen.meta["BLOCK_M"]
    if window:
        block_m = rows_of(block_m, group, window**2 // (4 if pool else 1))
    return {
        "C": heads * d, "D": d, "D1": D1, "D2": D2, "WINDOW": window, "GROUP": group, "POOL": pool, "PAD": pad,
        "PRECISION": precision, "BLOCK_M": block_m, "BLOCK_N": chosen.meta["BLOCK_N"],
    }  # fmt: skip


def window_attention_triton(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
) -> torch.Tensor:
    """:func:`sam2fast.kernels.window_attention.window_attention` on the GPU; never synchronises."""
    B, H, W, channels = qkv.shape
    C, pool = channels // 3, q_stride is not None
    row = qkv.stride(2)
    if qkv.stride() != (H * W * row, W * row, row, 1):
        qkv, row = qkv.contiguous(), channels
    d, stride = C // num_heads, 2 if pool else 1
    out = qkv.new_empty(B, H // stride, W // stride, C)
    if out.numel() == 0:
        return out
    height, width = (window_size, window_size) if window_size else (H, W)
    rows, columns = triton.cdiv(H, height), triton.cdiv(W, width)
    chosen = launch_config("window_attention", config, qkv, shape_class(d, window_size))
    meta = constants(
        chosen, num_heads, d, window_size, pool, bool(H % height or W % width), product_precision(qkv.dtype)
    )
    options = options_of(chosen, meta["BLOCK_M"])
    tiles = triton.cdiv(meta["GROUP"] * (height * width // stride**2), meta["BLOCK_M"])
    most = max(1, MAX_PROGRAMS // tiles)  # images per launch
    parts = [(qkv, out)] if most >= B else zip(qkv.split(most), out.split(most), strict=True)
    with chosen.on_device(qkv):
        for some, result in parts:
            count_launch("window_attention")
            _window_attention_kernel[triton.cdiv(rows * columns, meta["GROUP"]), num_heads, len(some) * tiles](
                some, bias.contiguous(), result, H, W, rows, columns, H * W, tiles,
                d**-0.5 * math.log2(math.e), ROW=row, **meta, **options, **FUSED,
            )  # fmt: skip
    return out
