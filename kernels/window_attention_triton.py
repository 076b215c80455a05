"""Computes window attention directly on the projected map, without copying windows.

A program processes a tile of queries of one head and one window, and loops over the keys of this window. Small windows
are processed together: a tile contains queries of several windows, and scores between different windows are masked.
Tokens attend to padding positions. SAM 2 pads the map before the projection, so keys and values of padding are the
bias.

Tile sizes are powers of two. A head is loaded as one piece of ``D1`` channels, or as two pieces of ``D1`` and ``D2``
channels if two pieces need less padding: 72 channels are 64 + 16 instead of 128. With ``PIECES`` of 1 in the
configuration, heads are always one piece.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math
from typing import Any

import torch
import triton
import triton.language as tl

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, MAX_PROGRAMS, LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import padded
from sam2fast.kernels.window_attention import config, shape_class

# Attention score of a masked key. The score is finite instead of -inf, since all keys of a tile's unused row may be
# masked. The score is a power of two, so that UNSEEN * scale - UNSEEN * scale is exactly 0 as a fused multiply-add.
UNSEEN = tl.constexpr(-(2.0**96))


@triton.jit
def _position(
    token,  # row-major index of the token in the window
    window,  # row-major index of the window in the image
    columns,  # number of windows per row
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
):
    y = (window // columns) * WINDOW_H + token // WINDOW_W
    x = (window % columns) * WINDOW_W + token % WINDOW_W
    return y, x


@triton.jit
def _in_group(
    index,  # index of the token in the group of windows
    group,  # index of the group of windows in the image
    tokens,  # number of tokens per window
    GROUP: tl.constexpr,  # number of windows per group
):
    """Returns indices of the window in its group, of the window in the image, and of the token in its window."""
    if GROUP == 1:
        return 0, group, index
    else:
        return index // tokens, group * GROUP + index // tokens, index % tokens


@triton.jit
def _load_piece(
    qkv,  # (H·W, ROW), projections of one image
    bias,  # (3·C)
    row,  # (BLOCK), offsets of positions in qkv
    valid,  # (BLOCK) bool; positions with False are loaded as 0
    inside,  # (BLOCK) bool, True for positions on the map; with PAD, the bias is loaded for other valid positions
    first,  # index of the first loaded channel
    SIZE: tl.constexpr,
    PIECE: tl.constexpr,  # smallest power of two >= SIZE
    PAD: tl.constexpr,
):
    source = qkv + row
    loaded = valid
    # In fp32, each warp splits loaded values into TF32 parts, but values of tl.where are split only once.
    SELECTS: tl.constexpr = PAD and qkv.dtype.element_ty == tl.float32
    if SELECTS:
        loaded = valid & inside
    elif PAD:
        source = tl.where(inside, source, bias)
    channel = tl.arange(0, PIECE)
    mask = loaded[:, None]
    if SIZE < PIECE:
        mask = mask & (channel < SIZE)[None, :]
    x = tl.load(source[:, None] + (first + channel)[None, :], mask=mask, other=0.0)
    if SELECTS:
        padding = tl.load(bias + first + channel, mask=channel < SIZE, other=0.0)
        x = tl.where(inside[:, None], x, padding[None, :])
    return x


@triton.jit
def _load_query(
    qkv, bias,
    token,  # (BLOCK_M), index of each query in its window
    window,  # (BLOCK_M), index of each query's window in the image
    columns, H, W,
    valid,  # (BLOCK_M) bool, True for existing queries
    first,
    ROW: tl.constexpr,
    SIZE: tl.constexpr, PIECE: tl.constexpr,
    WINDOW: tl.constexpr, POOL: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """Returns a piece of each query, ``(BLOCK_M, PIECE)``. With POOL, queries are maxima over 2 x 2 positions."""
    if POOL:
        query = tl.full([token.shape[0], PIECE], float("-inf"), tl.float32)
        for corner in tl.static_range(4):
            if WINDOW == 0:
                y, x = token // (W // 2), token % (W // 2)
            else:
                y, x = _position(token, window, columns, WINDOW // 2, WINDOW // 2)
            y = 2 * y + corner // 2
            x = 2 * x + corner % 2
            piece = _load_piece(qkv, bias, (y * W + x) * ROW, valid, (y < H) & (x < W), first, SIZE, PIECE, PAD)
            query = tl.maximum(query, piece.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)  # as in torch
        return tl.where(valid[:, None], query, 0.0).to(qkv.dtype.element_ty)
    elif WINDOW == 0:
        return _load_piece(qkv, bias, token * ROW, valid, valid, first, SIZE, PIECE, PAD)
    else:
        y, x = _position(token, window, columns, WINDOW, WINDOW)
        return _load_piece(qkv, bias, (y * W + x) * ROW, valid, (y < H) & (x < W), first, SIZE, PIECE, PAD)


@triton.jit
def _store_pieces(
    out,  # (H', W', C) out, result of one image, pointer to a head's first channel
    x1, x2,  # (BLOCK_M, D1) and (BLOCK_M, D2), pieces of results; x2 is unused if D2 is 0
    token, window, columns, H, W, valid,  # arguments of _load_query
    C: tl.constexpr, D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    WINDOW: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Stores the results of queries that lie on the map, not on the padding."""
    if WINDOW == 0:
        position = token
        mask = valid
    else:
        y, x = _position(token, window, columns, WINDOW // STRIDE, WINDOW // STRIDE)
        position = y * (W // STRIDE) + x
        mask = valid & (y < H // STRIDE) & (x < W // STRIDE)
    target = out + (position * C)[:, None]
    channel1 = tl.arange(0, D1)
    dtype = out.dtype.element_ty
    tl.store(target + channel1[None, :], x1.to(dtype), mask=mask[:, None] & (channel1 < D)[None, :])
    if D2 > 0:
        channel2 = D1 + tl.arange(0, D2)
        tl.store(target + channel2[None, :], x2.to(dtype), mask=mask[:, None] & (channel2 < D)[None, :])


@triton.jit
def _window_attention_kernel(
    qkv,  # (B, H, W, 3·C): the leading channels of a contiguous map with ROW channels
    bias,  # (3·C)
    out,  # (B, H', W', C)
    pooled,  # (B, H', W', C) out: pooled residual, written only with RESIDUAL
    H, W,
    rows, columns,  # numbers of rows and columns of windows
    positions,  # H·W, the number of keys if WINDOW is 0
    tiles,  # number of tiles of queries per group of windows
    scale,  # factor of attention scores, multiplied by log2(e) for exp2
    C: tl.constexpr,  # heads · D
    ROW: tl.constexpr,  # stride between positions of qkv, at least 3·C
    D: tl.constexpr,  # channels of a head
    D1: tl.constexpr, D2: tl.constexpr,  # numbers of channels of a head's two pieces; D2 is 0 for a single piece
    WINDOW: tl.constexpr,  # side of a window; 0 for the whole map as one window
    GROUP: tl.constexpr,  # number of windows per program
    POOL: tl.constexpr,  # True if queries are max-pooled by 2 x 2
    RESIDUAL: tl.constexpr,  # True if half of the programs max-pool a residual, the C channels after the values
    PAD: tl.constexpr,  # True if some windows extend beyond the map
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    SIZE1: tl.constexpr = D if D2 == 0 else D1
    SIZE2: tl.constexpr = D - SIZE1
    STRIDE: tl.constexpr = 2 if POOL else 1
    # Triton 3.2 rejects chains of `and` without parentheses.
    FULL: tl.constexpr = GROUP == 1 and (WINDOW > 0 and WINDOW * WINDOW % BLOCK_N == 0)  # no block of keys needs a mask
    # With AT_ONCE, the keys and values of a block are loaded together, so the program waits once for memory. With few
    # queries (one warp), or in fp32, keys and values together need too many registers.
    IS_16_BIT: tl.constexpr = qkv.dtype.element_ty != tl.float32
    AT_ONCE: tl.constexpr = WINDOW * WINDOW > BLOCK_N and (BLOCK_M >= BLOCK_N and IS_16_BIT)
    # For WINDOW > 0, numbers of tokens per window are constants, since divisions by constants are fast.
    keys = WINDOW * WINDOW if WINDOW > 0 else positions
    queries = WINDOW * WINDOW // (STRIDE * STRIDE) if WINDOW > 0 else positions // (STRIDE * STRIDE)
    group = tl.program_id(0)
    first = tl.program_id(1) % (C // D) * D
    b = (tl.program_id(2) // tiles).to(tl.int64)
    qkv += b * H * W * ROW
    windows = rows * columns
    out_offset = b * (H // STRIDE) * (W // STRIDE) * C + first

    m = (tl.program_id(2) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    query_group, query_window, token = _in_group(m, group, queries, GROUP)
    valid = m < GROUP * queries
    if GROUP > 1:
        valid &= query_window < windows
    source = qkv
    if RESIDUAL:
        source += tl.where(tl.program_id(1) < C // D, 0, 3 * C)
    query1 = _load_query(
        source, bias, token, query_window, columns, H, W, valid, first, ROW, SIZE1, D1, WINDOW, POOL, PAD
    )
    query2 = query1
    if D2 > 0:
        query2 = _load_query(
            source, bias, token, query_window, columns, H, W, valid, first + D1, ROW, SIZE2, D2, WINDOW, POOL, PAD
        )
    if RESIDUAL:  # noqa: SIM102 (a nested condition, which the compiler evaluates at compile time)
        if tl.program_id(1) >= C // D:
            _store_pieces(
                pooled + out_offset, query1, query2, token, query_window, columns, H, W, valid,
                C, D, D1, D2, WINDOW, STRIDE,
            )  # fmt: skip
            return
    out1 = tl.zeros([BLOCK_M, D1], tl.float32)
    if D2 > 0:
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
            key_group, key_window, key_token = _in_group(n, group, keys, GROUP)
            key_mask = n < GROUP * keys
            if GROUP > 1:
                key_mask &= key_window < windows
            y, x = _position(key_token, key_window, columns, WINDOW, WINDOW)
            inside = (y < H) & (x < W)
            row = (y * W + x) * ROW
        key = _load_piece(qkv, bias, row, key_mask, inside, C + first, SIZE1, D1, PAD)
        if AT_ONCE:
            value1 = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first, SIZE1, D1, PAD)
        scores = tl.dot(query1, tl.trans(key), input_precision=PRECISION)
        if D2 > 0:
            key = _load_piece(qkv, bias, row, key_mask, inside, C + first + D1, SIZE2, D2, PAD)
            if AT_ONCE:
                value2 = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first + D1, SIZE2, D2, PAD)
            scores = tl.dot(query2, tl.trans(key), scores, input_precision=PRECISION)
        if not FULL:
            seen = key_mask[None, :]
            if GROUP > 1:
                seen = seen & (query_group[:, None] == key_group[None, :])
            scores = tl.where(seen, scores, UNSEEN)
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        shrink = tl.math.exp2(highest - higher)
        weights = tl.math.exp2(scores * scale - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
        weights = weights.to(qkv.dtype.element_ty)
        if not AT_ONCE:
            value1 = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first, SIZE1, D1, PAD)
        out1 = tl.dot(weights, value1, out1 * shrink[:, None], input_precision=PRECISION)
        if D2 > 0:
            if not AT_ONCE:
                value2 = _load_piece(qkv, bias, row, key_mask, inside, 2 * C + first + D1, SIZE2, D2, PAD)
            out2 = tl.dot(weights, value2, out2 * shrink[:, None], input_precision=PRECISION)

    x1 = out1 / total[:, None]
    x2 = out2 / total[:, None] if D2 > 0 else x1
    _store_pieces(out + out_offset, x1, x2, token, query_window, columns, H, W, valid, C, D, D1, D2, WINDOW, STRIDE)


def pieces(d: int, most: int = 2) -> tuple[int, int]:
    """Splits a head of ``d`` channels into at most ``most`` pieces. Returns the pieces' sizes; the second may be 0."""
    whole = padded(d)
    first = whole if whole == d or d < 16 or most == 1 else whole // 2
    second = padded(d - first) if first < d else 0
    return (first, second) if first + second < whole else (whole, 0)


def group_of(window: int, block_n: int) -> int:
    """Returns the number of windows per program, so that the keys of all windows fill a block."""
    return max(1, block_n // window**2) if window else 1


def rows_of(block_m: int, group: int, queries: int) -> int:
    """Returns the number of queries per tile: ``block_m``, or less if a group has fewer queries."""
    return min(block_m, padded(group * queries))


def options_of(launch: LaunchConfig, block_m: int) -> dict[str, int]:
    """Returns Triton's options. If the configuration has ``ROWS_PER_WARP``, small tiles of queries use fewer warps."""
    rows, most = launch.meta.get("ROWS_PER_WARP", 0), launch.options["num_warps"]
    return {**launch.options, "num_warps": max(1, min(most, block_m // rows))} if rows else dict(launch.options)


def constants(
    launch: LaunchConfig, heads: int, d: int, window: int, pool: bool, pad: bool, precision: str
) -> dict[str, Any]:
    """Returns constexpr arguments of ``_window_attention_kernel``."""
    D1, D2 = pieces(d, launch.meta.get("PIECES", 2))
    group = group_of(window, launch.meta["BLOCK_N"])
    block_m = launch.meta["BLOCK_M"]
    if window:
        block_m = rows_of(block_m, group, window**2 // (4 if pool else 1))
    return {
        "C": heads * d, "D": d, "D1": D1, "D2": D2, "WINDOW": window, "GROUP": group, "POOL": pool, "PAD": pad,
        "PRECISION": precision, "BLOCK_M": block_m, "BLOCK_N": launch.meta["BLOCK_N"],
    }  # fmt: skip


def window_attention_triton(
    qkv: torch.Tensor, bias: torch.Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None = None
) -> torch.Tensor:
    """Computes :func:`sam2fast.kernels.window_attention.window_attention` on the GPU without synchronising."""
    return _attend(qkv, bias, num_heads, window_size, q_stride is not None)[0]


def pooled_window_attention_triton(
    projected: torch.Tensor, bias: torch.Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes :func:`sam2fast.kernels.window_attention.pooled_window_attention` on the GPU without synchronising."""
    return _attend(projected, bias, num_heads, window_size, True, True)


def _attend(
    qkv: torch.Tensor, bias: torch.Tensor, num_heads: int, window_size: int, pool: bool, residual: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the attention, and with ``residual`` the pooled channels that follow queries, keys and values."""
    (B, H, W, channels), C = qkv.shape, len(bias) // 3
    row = qkv.stride(2)
    if qkv.stride() != (H * W * row, W * row, row, 1):
        qkv, row = qkv.contiguous(), channels
    d, stride = C // num_heads, 2 if pool else 1
    out = qkv.new_empty(B, H // stride, W // stride, C)
    pooled = torch.empty_like(out) if residual else out
    if out.numel() == 0:
        return out, pooled
    height, width = (window_size, window_size) if window_size else (H, W)
    rows, columns = triton.cdiv(H, height), triton.cdiv(W, width)
    launch = launch_config("window_attention", config, qkv, shape_class(d, window_size))
    meta = constants(
        launch, num_heads, d, window_size, pool, bool(H % height or W % width), product_precision(qkv.dtype)
    )
    options = options_of(launch, meta["BLOCK_M"])
    tiles = triton.cdiv(meta["GROUP"] * (height * width // stride**2), meta["BLOCK_M"])
    groups, programs = triton.cdiv(rows * columns, meta["GROUP"]), num_heads * (1 + residual)
    most = max(1, MAX_PROGRAMS // tiles)  # maximum number of images per launch
    bias = bias.to(qkv.dtype).contiguous()
    tensors = qkv, out, pooled
    parts = [tensors] if most >= B else zip(*(x.split(most) for x in tensors), strict=True)
    with launch.on_device(qkv):
        for images, *results in parts:
            count_launch("window_attention")
            _window_attention_kernel[groups, programs, len(images) * tiles](
                images, bias, *results, H, W, rows, columns, H * W, tiles,
                d**-0.5 * math.log2(math.e), ROW=row, RESIDUAL=residual, **meta, **options, **FUSED,
            )  # fmt: skip
    return out, pooled
