"""Attention to the memory bank and of a frame to itself, in four kernels.

1. ``_rotate_kernel`` turns queries (and the keys of self-attention) by their positions.
2. ``_encode_kernel`` makes the memory's keys: encodings added, projected, turned; and gathers the values. It writes the
   tokens of valid pages and pointers one after the other, so that what comes next sees plain sequences without gaps.
3. ``_attend_kernel`` is the attention, with a running maximum; several programs may share the keys of one query tile.
4. ``_combine_kernel`` joins their results and projects the weighted sums of memory tokens to values.

Rotation turns pairs of neighbouring channels (2i, 2i + 1). A dot product does not mind in which order it meets the
channels, so rotated queries and keys are stored as all first members of the pairs, then all second ones: kernels 1 and
2 read queries and rows of the projection in that order, and nothing is ever shuffled. Each half is padded with zeros to
a power of two, ``HALF`` channels.
"""

from typing import Any

import triton
import triton.language as tl

from sam2fast.kernels._launch import ANY, Compilation, LaunchConfig
from sam2fast.kernels.memory_attention.fp8 import LARGEST, LEAST
from sam2fast.kernels.memory_attention.reference import MEANS

# Of the kernels around the attention, which take a small part of the time: one configuration for all.
ROTATE, ENCODE, COMBINE = {"BLOCK": 32}, {"BLOCK": 32}, {"BLOCK": 32, "COLUMNS": 64}
WARPS = {"num_warps": 8}

FP8_LARGEST, FP8_LEAST = tl.constexpr(LARGEST), tl.constexpr(LEAST)

Case = tuple[Any, tuple[str, ...], dict[str, Any]]  # kernel, types, constants


@triton.jit
def _rotate_kernel(
    x,  # (B, H, M, d), any strides
    cos,  # (N, d / 2) fp32
    sin,  # (N, d / 2) fp32
    out,  # (B, H, M, 2 * HALF), contiguous
    scales,  # out (B, H, M) fp32 of the rows, with FP8; anything without
    H, M, N,
    rotated,  # so many of the M rows have a position, which is their index modulo N
    half,  # d / 2
    stride_b, stride_h, stride_m, stride_d,
    HALF: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.arange(0, HALF)
    inside = (row < M)[:, None] & (pair < half)[None, :]
    pairs = x + b * stride_b + h * stride_h + row[:, None] * stride_m + 2 * pair[None, :] * stride_d
    even = tl.load(pairs, mask=inside, other=0.0).to(tl.float32)
    odd = tl.load(pairs + stride_d, mask=inside, other=0.0).to(tl.float32)
    even, odd = _turn(even, odd, cos, sin, row % N, inside & (row < rotated)[:, None], half, HALF)
    if FP8:
        even, odd = _scaled(scales + (b * H + h) * M, row, row < M, even, odd)
    _store_halves(out + (b * H + h) * M * (2 * HALF), row, row < M, even, odd, HALF)


@triton.jit
def _turn(
    even,  # (BLOCK, HALF) fp32
    odd,  # (BLOCK, HALF) fp32
    cos, sin,
    position,  # (BLOCK)
    rotated,  # (BLOCK, HALF) bool; the others stay as they are
    half,
    HALF: tl.constexpr,
):  # fmt: skip
    angle = position[:, None] * half + tl.arange(0, HALF)[None, :]
    c = tl.load(cos + angle, mask=rotated, other=1.0)
    s = tl.load(sin + angle, mask=rotated, other=0.0)
    return even * c - odd * s, even * s + odd * c


@triton.jit
def _scaled(scales, row, inside, first, second):
    # `scales` gets what the two halves of rows are divided by, for float8_e4m3fn just to hold them.
    highest = tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 1)
    scale = tl.maximum(highest, FP8_LEAST) / FP8_LARGEST
    tl.store(scales + row, scale, mask=inside)
    factor = (1.0 / scale)[:, None]
    return first * factor, second * factor


@triton.jit
def _store_halves(out, row, inside, first, second, HALF: tl.constexpr):
    place = out + row[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    tl.store(place, first.to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(place + HALF, second.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _encode_kernel(
    pages,  # (P, N, m), N positions each
    page_table,  # (B, K) int32, -1 for none
    page_time,  # (B, K) int32
    position_encoding,  # (N, m), or of each kind (5 N, m)
    time_encoding,  # (T, m)
    pointers,  # (B, L, m)
    pointer_encoding,  # (B, L, m)
    pointer_valid,  # (B, L) uint8
    weight,  # (H * d, m)
    bias,  # (H * d), or anything without HAS_BIAS
    cos,  # (N, d / 2) or (5 N, d / 2) fp32
    sin,  # (N, d / 2) or (5 N, d / 2) fp32
    keys,  # out (B, H, K * N + L, 2 * HALF)
    scales,  # out (B, H, K * N + L) fp32 of the keys, with FP8; anything without
    values,  # out (B, K * N + L, WIDTH)
    lengths,  # out (B) int32: how many of the K * N + L rows are filled
    offsets,  # out (B, K * N + L) fp32, with MEANS: log2 of how many tokens each row counts as
    H, N, K, L, m, half, T,
    HAS_BIAS: tl.constexpr,
    MEANS: tl.constexpr,  # 0, or the kind of pages of means, of so many tokens each; page_time is T * kind + time then
    SLOTS: tl.constexpr,  # power of two, at least K
    HALF: tl.constexpr,
    FP8: tl.constexpr,
    WIDTH: tl.constexpr,  # power of two, at least m
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    h = tl.program_id(2)
    tiles = tl.cdiv(N, BLOCK)
    slots = tl.arange(0, SLOTS)
    filled = tl.load(page_table + b * K + slots, mask=slots < K, other=-1) >= 0
    count = tl.sum(filled.to(tl.int32), 0)

    if (tile == 0) & (h == 0):
        total = count * N
        for start in range(0, L, BLOCK):
            index = start + tl.arange(0, BLOCK)
            total += tl.sum((tl.load(pointer_valid + b * L + index, mask=index < L, other=0) != 0).to(tl.int32), 0)
        tl.store(lengths + b, total)

    is_page = tile < K * tiles
    slot = tile // tiles
    page = tl.load(page_table + b * K + slot, mask=is_page, other=0)
    if page < 0:
        return

    channel = tl.arange(0, WIDTH)
    known = (channel < m)[None, :]
    lane = tl.arange(0, BLOCK)
    tokens = tl.full((), 1, tl.int32)
    if is_page:
        position = (tile % tiles) * BLOCK + lane
        present = position < N
        row = tl.sum((filled & (slots < slot)).to(tl.int32), 0) * N + position
        mask = present[:, None] & known
        cell = position[:, None] * m + channel[None, :]
        token = tl.load(pages + page.to(tl.int64) * N * m + cell, mask=mask, other=0.0).to(tl.float32)
        time = tl.load(page_time + b * K + slot)
        if MEANS:
            kind = time // T
            time = time % T
            position += kind * N
            cell = position[:, None] * m + channel[None, :]
            tokens = tl.where(kind == MEANS, MEANS, 1)
        moment = tl.load(time_encoding + time * m + channel, mask=channel < m, other=0.0).to(tl.float32)
        place = tl.load(position_encoding + cell, mask=mask, other=0.0).to(tl.float32)
        encoding = place + moment[None, :]
        rotated = present
    else:
        position = (tile - K * tiles) * BLOCK + lane
        before = tl.zeros((), dtype=tl.int32)
        for start in range(0, (tile - K * tiles) * BLOCK, BLOCK):
            before += tl.sum((tl.load(pointer_valid + b * L + start + lane) != 0).to(tl.int32), 0)
        present = tl.load(pointer_valid + b * L + position, mask=position < L, other=0) != 0
        row = count * N + before + tl.cumsum(present.to(tl.int32), 0) - 1
        mask = present[:, None] & known
        cell = position[:, None] * m + channel[None, :]
        token = tl.load(pointers + b * L * m + cell, mask=mask, other=0.0).to(tl.float32)
        encoding = tl.load(pointer_encoding + b * L * m + cell, mask=mask, other=0.0).to(tl.float32)
        rotated = lane < 0
        position = lane * 0

    length = K * N + L
    if h == 0:
        place_of_value = values + b * length * WIDTH + row[:, None] * WIDTH + channel[None, :]
        tl.store(place_of_value, token.to(values.dtype.element_ty), mask=present[:, None])
        if MEANS:
            log_tokens = tl.math.log2(tokens.to(tl.float32))
            tl.store(offsets + b * length + row, log_tokens + tl.zeros([BLOCK], tl.float32), mask=present)
    dtype = values.dtype.element_ty
    pair = tl.arange(0, HALF)
    inside = pair < half
    encoded = (token + encoding).to(dtype)
    rows_of_weight = weight + (h * 2 * half + 2 * pair[None, :]) * m + channel[:, None]  # (WIDTH, HALF)
    known_weight = inside[None, :] & (channel < m)[:, None]
    even = tl.dot(encoded, tl.load(rows_of_weight, mask=known_weight, other=0.0).to(dtype), input_precision=PRECISION)
    odd = tl.dot(
        encoded, tl.load(rows_of_weight + m, mask=known_weight, other=0.0).to(dtype), input_precision=PRECISION
    )
    if HAS_BIAS:
        even += tl.load(bias + h * 2 * half + 2 * pair, mask=inside, other=0.0).to(tl.float32)[None, :]
        odd += tl.load(bias + h * 2 * half + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)[None, :]
    even, odd = _turn(even, odd, cos, sin, position, rotated[:, None] & inside[None, :], half, HALF)
    if FP8:
        even, odd = _scaled(scales + (b * H + h) * length, row, present, even, odd)
    _store_halves(keys + (b * H + h) * length * (2 * HALF), row, present, even, odd, HALF)


@triton.jit(do_not_specialize=["splits"])
def _attend_kernel(
    query,  # (B or 1, H, N, D), rotated
    query_scales,  # (B or 1, H, N) fp32, with FP8
    keys,  # (B, H, M, D), rotated
    key_scales,  # (B, H, M) fp32, with FP8
    values,  # (B, H, M, width), channels contiguous
    lengths,  # (B) int32: so many of the M keys count; without RAGGED, all
    offsets,  # (B, M) fp32, added to scores after scaling; with OFFSETS
    sums,  # out (splits, B * H, N, WIDTH) fp32 weighted means of each split, or with DIRECT (B, H, N, width)
    log_weights,  # out (splits, B * H, N) fp32 log2 of their summed weights; without DIRECT
    H, N, M, width,
    splits,
    scale,  # of the scores, times log2(e)
    stride_qb, stride_vb, stride_vh, stride_vm, stride_ob, stride_oh, stride_om,
    FP8: tl.constexpr,  # queries and keys are in float8_e4m3fn, to be multiplied by the scales of their rows
    RAGGED: tl.constexpr,
    OFFSETS: tl.constexpr,
    DIRECT: tl.constexpr,
    PADDED: tl.constexpr,  # width < WIDTH
    EVEN: tl.constexpr,  # all blocks are full
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,  # channels of a head taken at once; D, or less where fp32 would not fit into registers
):  # fmt: skip
    split = tl.program_id(1)
    b = (tl.program_id(2) // H).to(tl.int64)
    h = tl.program_id(2) % H
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, WIDTH)
    there = position < N
    part = tl.arange(0, CHUNK)
    q = query + b * stride_qb + (h * N + position[:, None]) * D + part[None, :]
    if CHUNK == D:
        block_query = tl.load(q, mask=there[:, None], other=0.0)
    k = keys + (b * H + h) * M * D
    v = values + b * stride_vb + h * stride_vh
    factor, row_factor = scale, scale
    if FP8:
        query_scale = tl.load(query_scales + b * (stride_qb // D) + h * N + position, mask=there, other=1.0)
        factor = scale * query_scale
        row_factor = factor[:, None]
        key_scales += (b * H + h) * M
    length = M
    if RAGGED:
        length = tl.load(lengths + b)

    # This program's share of the blocks. The last block of all may be partly filled; beyond the last key its rows
    # repeat that key, which counts nothing there.
    blocks = tl.cdiv(length, BLOCK_N)
    first = blocks * split // splits
    last = blocks * (split + 1) // splits
    lane = tl.arange(0, BLOCK_N)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for block in tl.range(first, last):
        row = block * BLOCK_N + lane
        if not EVEN:
            row = tl.minimum(row, length - 1)
        places = k + row[None, :] * D + part[:, None]
        if CHUNK == D:
            scores = tl.dot(block_query, tl.load(places), input_precision=PRECISION)
        else:
            scores = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for start in tl.range(0, D, CHUNK):
                some_query = tl.load(q + start, mask=there[:, None], other=0.0)
                scores = tl.dot(some_query, tl.load(places + start), scores, input_precision=PRECISION)
        if FP8:
            scores = scores * tl.load(key_scales + row)[None, :]
        if not EVEN:
            scores = tl.where((block * BLOCK_N + lane < length)[None, :], scores, float("-inf"))
        if OFFSETS:
            scores = scores * row_factor + tl.load(offsets + b * M + row)[None, :]
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.math.exp2(scores - higher[:, None])
        else:
            higher = tl.maximum(highest, tl.max(scores, 1) * factor)
            weights = tl.math.exp2(scores * row_factor - higher[:, None])
        shrink = tl.math.exp2(highest - higher)
        place = v + row[:, None] * stride_vm + columns[None, :]
        if PADDED:
            block_values = tl.load(place, mask=(columns < width)[None, :], other=0.0)
        else:
            block_values = tl.load(place)
        weighted = weighted * shrink[:, None]
        weighted = tl.dot(weights.to(block_values.dtype), block_values, weighted, input_precision=PRECISION)
        total = total * shrink + tl.sum(weights, 1)
        highest = higher

    some = total > 0  # an object may have no memory, a split no block
    mean = weighted / tl.where(some, total, 1.0)[:, None]
    if DIRECT:
        place = sums + b * stride_ob + h * stride_oh + position[:, None] * stride_om + columns[None, :]
        tl.store(place, mean.to(sums.dtype.element_ty), mask=there[:, None] & (columns < width)[None, :])
    else:
        part = split.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums + (part * N + position[:, None]) * WIDTH + columns[None, :], mean, mask=there[:, None])
        log_weight = tl.where(some, highest + tl.math.log2(tl.where(some, total, 1.0)), float("-inf"))
        tl.store(log_weights + part * N + position, log_weight, mask=there)


@triton.jit(do_not_specialize=["splits"])
def _combine_kernel(
    sums,  # (splits, B * H, N, WIDTH) fp32
    log_weights,  # (splits, B * H, N) fp32
    weight,  # (H * outer, width) of the value projection, or anything without PROJECT
    bias,  # (H * outer), or anything without HAS_BIAS
    out,  # (B, N, H, outer)
    H, N, width, outer,
    splits,
    PROJECT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)  # of object and head
    h = tl.program_id(1) % H
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = position < N
    channel = tl.arange(0, WIDTH)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mean = tl.zeros([BLOCK, WIDTH], tl.float32)
    for split in range(0, splits):
        part = (split * tl.num_programs(1) + pair) * N + position
        log_weight = tl.load(log_weights + part, mask=there, other=float("-inf"))
        higher = tl.maximum(highest, log_weight)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shrink, share = tl.math.exp2(highest - base), tl.math.exp2(log_weight - base)
        part_mean = tl.load(sums + part[:, None] * WIDTH + channel[None, :], mask=there[:, None], other=0.0)
        mean = mean * shrink[:, None] + part_mean * share[:, None]
        total = total * shrink + share
        highest = higher
    mean = mean / tl.where(total > 0, total, 1.0)[:, None]

    dtype = out.dtype.element_ty
    row = out + ((pair // H * N + position) * H + h)[:, None] * outer
    if PROJECT:
        for start in range(0, outer, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            inside = column < outer
            w = tl.load(
                weight + (h * outer + column)[None, :] * width + channel[:, None],
                mask=inside[None, :] & (channel < width)[:, None],
                other=0.0,
            )
            value = tl.dot(mean.to(dtype), w.to(dtype), input_precision=PRECISION)
            if HAS_BIAS:
                value += tl.load(bias + h * outer + column, mask=inside, other=0.0).to(tl.float32)[None, :]
            tl.store(row + column[None, :], value.to(dtype), mask=there[:, None] & inside[None, :])
    else:
        tl.store(row + channel[None, :], mean.to(dtype), mask=there[:, None] & (channel < width)[None, :])


def compilations(config: LaunchConfig) -> list[Compilation]:
    """What one row of the launch table compiles; a row for any shape is taken for the largest."""
    D, WIDTH = (256, 256) if config.shape == ANY else map(int, config.shape.split("x"))
    made = _compilations(config, D, WIDTH, fp8=False)
    return made + _compilations(config, D, WIDTH, fp8=True) if WIDTH < D else made


def _compilations(config: LaunchConfig, D: int, WIDTH: int, fp8: bool) -> list[Compilation]:
    dtype, to_memory = config.dtype, WIDTH < D
    t, wide = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}[dtype], "*fp32"
    rotated, scales = ("*fp8e4nv", wide) if fp8 else (t, t)
    n = "i32:16"  # at 1024 x 1024 pixels all strides and most numbers are multiples of 16
    precision = {"PRECISION": "tf32x3" if dtype == "float32" else "ieee"}

    meta = {**config.meta, "CHUNK": min(D, config.meta["CHUNK"])}
    shape = {"PADDED": False, "EVEN": not to_memory, "D": D, "WIDTH": WIDTH, **precision, **meta}
    scalars = ("i32", n, n, n, "i32", "fp32", *[n] * 7)
    operands = (rotated, scales, rotated, scales, t, "*i32", wide)
    types, ways = (*operands, wide, wide, *scalars), {"FP8": fp8, "RAGGED": to_memory, "OFFSETS": False}
    cases: list[Case] = [(_attend_kernel, types, {**ways, "DIRECT": False, **shape})]
    if to_memory:  # pooled memories
        cases.append((_attend_kernel, types, {**ways, "OFFSETS": True, "DIRECT": False, **shape}))
    else:
        types = (*operands, t, t, *scalars)
        cases.append((_attend_kernel, types, {**ways, "DIRECT": True, **shape}))
    compiled = [Compilation(*case, dtype, is_attention=True, is_fp8=fp8) for case in cases]

    project = {"PROJECT": to_memory, "HAS_BIAS": to_memory, "WIDTH": WIDTH, **precision, **COMBINE}
    types = (t, wide, wide, rotated, scales, "i32", *[n] * 7, "i32")
    around: list[Case] = [(_rotate_kernel, types, {"HALF": D // 2, "FP8": fp8, **ROTATE})]
    if not fp8:
        around.append((_combine_kernel, (wide, wide, t, t, t, "i32", n, n, n, "i32"), project))
    if to_memory:
        ints = ("i32", n, "i32", n, n, n, "i32")
        types = (t, "*i32", "*i32", t, t, t, t, "*u8", t, t, wide, wide, rotated, scales, t, "*i32", wide, *ints)
        for means, slots in ((0, 8), (MEANS, 16)):
            constants = {"HAS_BIAS": True, "MEANS": means, "SLOTS": slots, "HALF": D // 2, "FP8": fp8}
            around.append((_encode_kernel, types, {**constants, "WIDTH": WIDTH, **ENCODE, **precision}))
    return compiled + [Compilation(*case, dtype, options=WARPS, is_fp8=fp8) for case in around]
