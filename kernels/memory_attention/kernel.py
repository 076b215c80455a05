"""Computes cross-attention to the memory bank and self-attention in four kernels (two of them in ``rope_kernel.py``).

1. ``_rotate_kernel`` rotates queries and keys of self-attention by their positions.
2. ``_encode_kernel`` computes the memory's keys: adds encodings to tokens, projects the sums, and rotates the keys. The
   kernel gathers values, and can compute means of keys and values. Keys and values of valid pages and pointers are
   written contiguously, so that the next kernel reads sequences without gaps. Additional programs of ``_encode_kernel``
   rotate the queries.
3. ``_attend_kernel`` computes attention with an online softmax. Several programs may share the keys of a query tile.
4. ``_combine_kernel`` combines the results of programs that share keys, and projects weighted means of memory tokens to
   values. With a residual, the kernel adds the values to the residual, and normalizes the sum.

Rotation works on pairs of adjacent channels (2i, 2i + 1). The order of channels does not change a dot product, so
rotated queries and keys store all even channels before all odd channels. Kernels 1 and 2 load queries and rows of the
projection in this order, without shuffling. Each half is padded with zeros to a power of two, ``HALF`` channels.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl

from sam2fast.kernels._launch import LaunchConfig
from sam2fast.kernels._tiles import normalized

# Block sizes of all kernels except the attention kernel. These kernels take little time, so one configuration is
# enough.
ROTATE, ENCODE, COMBINE = {"BLOCK": 32}, {"BLOCK": 32}, {"BLOCK": 32, "COLUMNS": 64}
WARPS = {"num_warps": 8}


@triton.jit
def _add_block(
    query,  # queries (BLOCK_M, D); if CHUNK < D, pointers to the first CHUNK channels of queries
    query_mask,  # (BLOCK_M) bool, True for existing queries; used only if CHUNK < D
    key_ptrs,  # (CHUNK, BLOCK_N), pointers to the first CHUNK channels of keys
    key_scale_ptrs,  # (BLOCK_N), pointers to scales of keys; used only with FP8
    value_ptrs,  # (BLOCK_N, WIDTH), pointers to values
    value_mask,  # (WIDTH) bool, True for existing channels of values; used only with PADDED
    offset_ptrs,  # (BLOCK_N), pointers to numbers that are added to scores; used only with OFFSETS
    is_key,  # (BLOCK_N) bool, True for existing keys; not used with FULL
    factor,  # factor of all scores; with FP8, a factor (BLOCK_M) for the scores of each query
    highest, total, weighted,  # largest scores, sums of weights and weighted sums of values in previous blocks
    FP8: tl.constexpr, OFFSETS: tl.constexpr, PADDED: tl.constexpr, FULL: tl.constexpr,
    D: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Updates ``highest``, ``total`` and ``weighted`` by a block of keys and values, and returns the three tensors."""
    if CHUNK == D:
        scores = tl.dot(query, tl.load(key_ptrs), input_precision=PRECISION)
    else:
        scores = tl.zeros([query.shape[0], key_ptrs.shape[1]], tl.float32)
        for start in tl.range(0, D, CHUNK):
            some_query = tl.load(query + start, mask=query_mask[:, None], other=0.0)
            scores = tl.dot(some_query, tl.load(key_ptrs + start), scores, input_precision=PRECISION)
    row_factor = factor
    if FP8:
        scores = scores * tl.load(key_scale_ptrs)[None, :]
        row_factor = factor[:, None]
    if not FULL:
        scores = tl.where(is_key[None, :], scores, float("-inf"))
    if OFFSETS:
        scores = scores * row_factor + tl.load(offset_ptrs)[None, :]
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.math.exp2(scores - higher[:, None])
    else:
        higher = tl.maximum(highest, tl.max(scores, 1) * factor)
        weights = tl.math.exp2(scores * row_factor - higher[:, None])
    shrink = tl.math.exp2(highest - higher)
    if PADDED:
        values = tl.load(value_ptrs, mask=value_mask[None, :], other=0.0)
    else:
        values = tl.load(value_ptrs)
    weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)
    return higher, total * shrink + tl.sum(weights, 1), weighted


@triton.jit(do_not_specialize=["splits"])
def _attend_kernel(
    query,  # (B or 1, H, N, D), rotated queries
    query_scales,  # (B or 1, H, N) fp32, scales of queries; used only with FP8
    keys,  # (B, H, M, D), rotated keys
    key_scales,  # (B, H, M) fp32, scales of keys; used only with FP8
    values,  # (B, H, M, width), with adjacent channels
    lengths,  # (B) int32, each object's number of valid keys; without RAGGED, all M keys are valid
    offsets,  # (B, M) fp32, numbers that are added to scaled scores; used only with OFFSETS
    sums,  # (splits, B * H, N, WIDTH) fp32 out: weighted mean per split of keys; with DIRECT, result (B, H, N, width)
    log_weights,  # (splits, B * H, N) fp32 out: log2 of the sum of weights per split of keys; not used with DIRECT
    H, N, M, width,
    splits,
    scale,  # factor of attention scores, multiplied by log2(e) for exp2
    stride_qb, stride_vb, stride_vh, stride_vm, stride_ob, stride_oh, stride_om,
    FP8: tl.constexpr,  # True if queries and keys are float8_e4m3fn with a scale per row
    RAGGED: tl.constexpr, OFFSETS: tl.constexpr, DIRECT: tl.constexpr,
    PADDED: tl.constexpr,  # True if width < WIDTH
    EVEN: tl.constexpr,  # True if every block contains BLOCK_N valid keys
    D: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PEELED: tl.constexpr,  # True if the loop over keys needs no masks, since a partial block is processed afterwards
    CHUNK: tl.constexpr,  # channels per step of a product of queries and keys: D, or fewer to save registers in fp32
):  # fmt: skip
    split = tl.program_id(1)
    b = (tl.program_id(2) // H).to(tl.int64)
    h = tl.program_id(2) % H
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, WIDTH)
    mask = position < N
    part = tl.arange(0, CHUNK)
    block_query = query + b * stride_qb + (h * N + position[:, None]) * D + part[None, :]
    if CHUNK == D:
        block_query = tl.load(block_query, mask=mask[:, None], other=0.0)
    factor = scale
    if FP8:
        factor = scale * tl.load(query_scales + b * (stride_qb // D) + h * N + position, mask=mask, other=1.0)
    length = M
    if RAGGED:
        length = tl.load(lengths + b)

    # This program processes the key blocks from first to last - 1. The last block of all keys may be partly filled.
    blocks = tl.cdiv(length, BLOCK_N)
    first = blocks * split // splits
    last = blocks * (split + 1) // splits
    full = last
    if PEELED and not EVEN:
        full = tl.minimum(last, length // BLOCK_N)
    lane = tl.arange(0, BLOCK_N)
    row = first * BLOCK_N + lane
    k = keys + (b * H + h) * M * D
    v = values + b * stride_vb + h * stride_vh
    key_scales += (b * H + h) * M
    offsets += b * M
    key_ptrs = k + row[None, :] * D + part[:, None]
    key_scale_ptrs = key_scales + row
    value_ptrs = v + row[:, None] * stride_vm + columns[None, :]
    offset_ptrs = offsets + row
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for block in tl.range(first, full):
        is_key = mask
        if not PEELED:
            row = block * BLOCK_N + lane
            is_key = row < length
            if not EVEN:
                row = tl.minimum(row, length - 1)
            key_ptrs = k + row[None, :] * D + part[:, None]
            key_scale_ptrs = key_scales + row
            value_ptrs = v + row[:, None] * stride_vm + columns[None, :]
            offset_ptrs = offsets + row
        highest, total, weighted = _add_block(
            block_query, mask, key_ptrs, key_scale_ptrs, value_ptrs, columns < width, offset_ptrs, is_key, factor,
            highest, total, weighted, FP8, OFFSETS, PADDED, PEELED or EVEN, D, CHUNK, PRECISION,
        )  # fmt: skip
        if PEELED:
            key_ptrs += BLOCK_N * D
            value_ptrs += BLOCK_N * stride_vm
            if FP8:
                key_scale_ptrs += BLOCK_N
            if OFFSETS:
                offset_ptrs += BLOCK_N
    if PEELED and not EVEN:  # noqa: SIM102 (evaluated at compile time)
        if full < last:
            # Lanes beyond the last key read the last key again, and get a score of -inf.
            row = full * BLOCK_N + lane
            is_key = row < length
            row = tl.minimum(row, length - 1)
            highest, total, weighted = _add_block(
                block_query, mask, k + row[None, :] * D + part[:, None], key_scales + row,
                v + row[:, None] * stride_vm + columns[None, :], columns < width, offsets + row, is_key, factor,
                highest, total, weighted, FP8, OFFSETS, PADDED, False, D, CHUNK, PRECISION,
            )  # fmt: skip

    mean = weighted / tl.where(total > 0, total, 1.0)[:, None]  # an object or split may have no keys
    if DIRECT:
        out_ptrs = sums + b * stride_ob + h * stride_oh + position[:, None] * stride_om + columns[None, :]
        tl.store(out_ptrs, mean.to(sums.dtype.element_ty), mask=mask[:, None] & (columns < width)[None, :])
    else:
        _store_part(sums, log_weights, mean, highest, total, split, position, mask, N, WIDTH)


@triton.jit
def _store_part(
    sums, log_weights, mean, highest, total, split, position, mask, N,  # as in _attend_kernel
    WIDTH: tl.constexpr,
):  # fmt: skip
    part = split.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
    _store_block(sums + (part * N + position) * WIDTH, mean, mask, WIDTH, 0)
    _store_log_weights(log_weights, highest, total, part, position, mask, N)


@triton.jit
def _store_block(
    rows,  # (BLOCK_M) pointers to the first of `width` columns
    x,  # (BLOCK_M, columns)
    mask,  # (BLOCK_M) bool, True for rows to store
    width,
    FIRST: tl.constexpr,  # index of the output column that stores the first column of x
):  # fmt: skip
    column = FIRST + tl.arange(0, x.shape[1])
    inside = mask[:, None] & (column < width)[None, :]
    tl.store(rows[:, None] + column[None, :], x.to(rows.dtype.element_ty), mask=inside)


@triton.jit
def _store_log_weights(log_weights, highest, total, part, position, mask, N):
    log_weight = tl.where(total > 0, highest + tl.math.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
    tl.store(log_weights + part * N + position, log_weight, mask=mask)


@triton.jit(do_not_specialize=["splits"])
def _combine_kernel(
    sums,  # (splits, B * H, N, WIDTH) fp32, weighted means of _attend_kernel
    log_weights,  # (splits, B * H, N) fp32, log2 of the sums of weights
    weight,  # (H * outer, width), weight of the value projection; used only with PROJECT
    bias,  # (H * outer), bias of the value projection; used only with HAS_BIAS
    out,  # (B, N, H, outer) out: values; with ADDS, values plus residual
    x,  # (B or 1, N, outer), residual; used only with ADDS, which needs a single head
    norm_weight,  # (outer), weight of the layer norm; used only with ADDS
    norm_bias,  # (outer), bias of the layer norm; used only with ADDS
    normed,  # (B, N, outer) out: layer norm of out, written only with ADDS
    H, N, width, outer,
    splits,
    of_x,  # stride of x between objects, 0 if all objects share x
    eps,
    PROJECT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ADDS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,  # number of output columns computed at once; with ADDS, all columns
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)  # index of a pair of object and head
    h = tl.program_id(1) % H
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = position < N
    channel = tl.arange(0, WIDTH)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mean = tl.zeros([BLOCK, WIDTH], tl.float32)
    for split in range(0, splits):
        part = (split * tl.num_programs(1) + pair) * N + position
        log_weight = tl.load(log_weights + part, mask=mask, other=float("-inf"))
        higher = tl.maximum(highest, log_weight)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shrink, share = tl.math.exp2(highest - base), tl.math.exp2(log_weight - base)
        part_mean = tl.load(sums + part[:, None] * WIDTH + channel[None, :], mask=mask[:, None], other=0.0)
        mean = mean * shrink[:, None] + part_mean * share[:, None]
        total = total * shrink + share
        highest = higher
    mean = mean / tl.where(total > 0, total, 1.0)[:, None]

    dtype = normed.dtype.element_ty
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
            _store_result(
                value, row, x + pair * of_x, out, normed, pair * N, position, mask[:, None] & inside[None, :],
                norm_weight, norm_bias, column, outer, eps, ADDS,
            )  # fmt: skip
    else:
        _store_result(
            mean, row, x + pair * of_x, out, normed, pair * N, position, mask[:, None] & (channel < width)[None, :],
            norm_weight, norm_bias, channel, outer, eps, ADDS,
        )  # fmt: skip


@triton.jit
def _store_result(
    value,  # (BLOCK, WIDTH) fp32; columns beyond the last channel are 0
    row,  # (BLOCK, 1), pointers to the first output channel of a head; not used with ADDS
    x,  # (N, C) residual; x and all following arguments are used only with ADDS
    out, normed,  # (B, N, C)
    before,  # number of rows of out and normed that belong to previous objects
    position, used, weight, bias, channel, C, eps,
    ADDS: tl.constexpr,
):  # fmt: skip
    if ADDS:
        offsets = position[:, None] * C + channel[None, :]
        total = (value + tl.load(x + offsets, mask=used, other=0.0).to(tl.float32)).to(out.dtype.element_ty)
        offsets += before * C
        tl.store(out + offsets, total, mask=used)
        norm = normalized(total.to(tl.float32), weight, bias, channel, C, eps)
        tl.store(normed + offsets, norm.to(normed.dtype.element_ty), mask=used)
    else:
        tl.store(row + channel[None, :], value.to(out.dtype.element_ty), mask=used)


def blocks(launch: LaunchConfig, D: int) -> dict[str, int]:
    """Returns constexpr arguments of ``_attend_kernel`` for heads of ``D`` channels."""
    meta = {name: launch.meta[name] for name in ("BLOCK_M", "BLOCK_N", "CHUNK")}
    return {**meta, "CHUNK": min(D, meta["CHUNK"]), "PEELED": bool(launch.meta.get("PEELED", 0))}


def encode_warps(takes_means: bool, dtype: torch.dtype) -> dict[str, int]:
    """Returns the number of warps of ``_encode_kernel``.

    If tokens are averaged, registers spill with eight warps on gfx942, and with four warps in fp32.
    """
    return {"num_warps": 4} if takes_means and dtype.itemsize == 2 else WARPS
