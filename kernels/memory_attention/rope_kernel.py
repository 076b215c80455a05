"""Rotates queries and keys, and computes keys and values of the memory: the first two kernels of memory attention.

:mod:`sam2fast.kernels.memory_attention.kernel` describes the memory layout of rotated rows.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from sam2fast.kernels.memory_attention.approximations import LARGEST, LEAST, LOG_4, NUMBERS

FP8_LARGEST, FP8_LEAST = tl.constexpr(LARGEST), tl.constexpr(LEAST)
COUNTED, RAISED, RAISE = tl.constexpr(NUMBERS["counted"]), tl.constexpr(NUMBERS["raised"]), tl.constexpr(LOG_4)


@triton.jit
def _rotate_kernel(
    x,  # (B, H, M, d) of any strides; programs with index 0 on the grid's third axis rotate x
    second,  # (B, H, M, d) with the strides of x; programs with index 1 on the grid's third axis rotate second
    cos,  # (N, d / 2) fp32
    sin,  # (N, d / 2) fp32
    out,  # (1 or 2, B, H, M, 2 * HALF) out: contiguous rotated rows of x, and of second
    H, M, N,
    rotated,  # number of leading rows to rotate; the position of row i is i modulo N
    half,  # d / 2
    stride_b, stride_h, stride_m, stride_d,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    if tl.program_id(2) == 1:
        x = second
    out += tl.program_id(2).to(tl.int64) * tl.num_programs(1) * M * (2 * HALF)
    x += b * stride_b + h * stride_h
    _rotate_rows(
        x, cos, sin, out, out, b * H + h, tl.program_id(0), M, N, rotated, half, stride_m, stride_d, HALF, False, BLOCK
    )


@triton.jit
def _rotate_rows(
    x,  # (M, d), rows of one head
    cos, sin, out,
    scales,  # (heads, M) fp32 out: scales of rotated rows; used only with FP8
    head,  # index of the head among the heads of all objects
    tile,
    M, N, rotated, half, stride_m, stride_d,
    HALF: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # A thread loads a chunk of 16 bytes at once. Chunks are a dimension of the tensors, so that the same thread rotates
    # and stores the chunk's pairs. In tensors (BLOCK, HALF), threads would exchange values through shared memory.
    PAIRS: tl.constexpr = 64 // x.dtype.element_ty.primitive_bitwidth
    row = tile * BLOCK + tl.arange(0, BLOCK)
    rows, chunk = row[:, None, None], tl.arange(0, HALF // PAIRS)[None, :, None]
    pair = chunk * PAIRS + tl.arange(0, PAIRS)[None, None, :]
    channel = chunk * (2 * PAIRS) + tl.arange(0, 2 * PAIRS)[None, None, :]
    loaded = tl.load(x + rows * stride_m + channel * stride_d, mask=(rows < M) & (channel < 2 * half), other=0.0)
    even, odd = tl.split(tl.reshape(loaded.to(tl.float32), [BLOCK, HALF // PAIRS, PAIRS, 2]))
    even, odd = _rotate_pairs(even, odd, cos, sin, rows % N * half + pair, (rows < rotated) & (pair < half))
    if FP8:
        first, second = tl.reshape(even, [BLOCK, HALF]), tl.reshape(odd, [BLOCK, HALF])
        first, second = _scaled(scales + head * M, row, row < M, first, second)
        even, odd = tl.reshape(first, even.shape), tl.reshape(second, odd.shape)
    _store_halves(out + head * M * (2 * HALF) + rows * (2 * HALF) + pair, rows < M, even, odd, HALF)


@triton.jit
def _rotate_pairs(
    even,  # fp32, even channels of any shape
    odd,  # fp32, odd channels of the same pairs
    cos, sin,
    angle,  # indices of the pairs in cos and sin
    rotated,  # bool, True for pairs of channels to rotate
):  # fmt: skip
    c = tl.load(cos + angle, mask=rotated, other=1.0)
    s = tl.load(sin + angle, mask=rotated, other=0.0)
    return even * c - odd * s, even * s + odd * c


@triton.jit
def _scaled(scales, row, inside, first, second):
    # Stores a scale for each row, and divides each row by its scale. The row's largest magnitude becomes 448, the
    # largest value of float8_e4m3fn.
    highest = tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 1)
    scale = tl.maximum(highest, FP8_LEAST) / FP8_LARGEST
    tl.store(scales + row, scale, mask=inside)
    factor = (1.0 / scale)[:, None]
    return first * factor, second * factor


@triton.jit
def _store_halves(out, inside, first, second, HALF: tl.constexpr):
    tl.store(out, first.to(out.dtype.element_ty), mask=inside)
    tl.store(out + HALF, second.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _means_of_four(x, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Replaces each group of four adjacent rows of ``x (BLOCK, WIDTH)`` by four copies of the rows' mean."""
    means = tl.sum(tl.reshape(x, [BLOCK // 4, 4, WIDTH]), 1) * 0.25
    return tl.reshape(tl.broadcast_to(means[:, None, :], [BLOCK // 4, 4, WIDTH]), [BLOCK, WIDTH])


@triton.jit(do_not_specialize=["objects"])
def _encode_kernel(
    pages,  # (P, N, m)
    page_table,  # (B, K) int32, indices of each object's pages, or -1 for an empty slot
    page_time,  # (B, K) int32, rows of time_encoding
    position_encoding,  # (N, m)
    time_encoding,  # (T, m)
    pointers,  # (B, L, m)
    pointer_encoding,  # (B, L, m)
    pointer_valid,  # (B, L) uint8
    weight,  # (H * d, m), weight of the key projection
    bias,  # (H * d), bias of the key projection; used only with HAS_BIAS
    cos,  # (N, d / 2) fp32, cosines for the tokens of a page
    sin,  # (N, d / 2) fp32, sines for the tokens of a page
    keys,  # (B, H, M, 2 * HALF) out: rotated keys
    scales,  # (B, H, M) fp32 out: scales of keys; used only with FP8
    values,  # (B, M, WIDTH) out
    lengths,  # (B) int32 out: each object's number of keys
    offsets,  # (B, M) fp32 out: log2 of the number of tokens that each key represents; used only with COUNTED
    query,  # (objects, H, Q, d) of any strides; the last programs rotate queries
    query_cos,  # (Q, d / 2) fp32, cosines for queries
    query_sin,  # (Q, d / 2) fp32, sines for queries
    rotated_query,  # (objects, H, Q, 2 * HALF) out: rotated queries
    query_scales,  # (objects, H, Q) fp32 out: scales of queries; used only with FP8
    objects, Q, stride_b, stride_h, stride_m, stride_d,
    H, N, K, L, M, m, half,
    side,  # height and width of a page's map, in tokens; used only with POOLING
    HAS_BIAS: tl.constexpr,
    POOLING: tl.constexpr,  # if not 0, COUNTED or RAISED: averages 2x2 tokens of objects with several pages
    SLOTS: tl.constexpr,  # smallest power of two >= K
    HALF: tl.constexpr, FP8: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= m, at least 16
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    h = tl.program_id(2)
    tiles = tl.cdiv(N, BLOCK)
    beyond = tile - tl.maximum(1, K * tiles + tl.cdiv(L, BLOCK))
    if beyond >= 0:
        number, of_object = beyond * tl.num_programs(1) + tl.program_id(1), tl.cdiv(Q, BLOCK)
        if number < objects * of_object:
            obj = (number // of_object).to(tl.int64)
            _rotate_rows(
                query + obj * stride_b + h * stride_h, query_cos, query_sin, rotated_query, query_scales, obj * H + h,
                number % of_object, Q, Q, Q, half, stride_m, stride_d, HALF, FP8, BLOCK,
            )  # fmt: skip
        return
    slots = tl.arange(0, SLOTS)
    filled = tl.load(page_table + b * K + slots, mask=slots < K, other=-1) >= 0
    count = tl.sum(filled.to(tl.int32), 0)
    rows = N  # number of keys per page
    if POOLING:
        rows = tl.where(count > 1, N // 4, N)

    if (tile == 0) & (h == 0):
        total = count * rows
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
    channel_mask = (channel < m)[None, :]
    lane = tl.arange(0, BLOCK)
    tokens = tl.full((), 1, tl.int32)
    is_pooled = is_page & (count > 1)
    if is_page:
        position = (tile % tiles) * BLOCK + lane
        rotated = position < N
        present = rotated
        first = tl.sum((filled & (slots < slot)).to(tl.int32), 0) * rows
        row = first + position
        if POOLING:  # four adjacent lanes load the tokens of a mean, and the first of them stores the mean
            mean = position // 4
            y, x = mean // (side // 2) * 2 + lane % 4 // 2, mean % (side // 2) * 2 + lane % 2
            position = y * side + x
            row = first + tl.where(is_pooled, mean, position)
            present &= lane % tl.where(count == 1, 1, 4) == 0
        if POOLING == COUNTED:
            tokens = tl.where(is_pooled, 4, 1)
        mask = rotated[:, None] & channel_mask
        cell = position[:, None] * m + channel[None, :]
        token = tl.load(pages + page.to(tl.int64) * N * m + cell, mask=mask, other=0.0).to(tl.float32)
        time = tl.load(page_time + b * K + slot)
        temporal = tl.load(time_encoding + time * m + channel, mask=channel < m, other=0.0).to(tl.float32)
        spatial = tl.load(position_encoding + cell, mask=mask, other=0.0).to(tl.float32)
        encoding = spatial + temporal[None, :]
    else:
        position = (tile - K * tiles) * BLOCK + lane
        before = tl.zeros((), dtype=tl.int32)
        for start in range(0, (tile - K * tiles) * BLOCK, BLOCK):
            before += tl.sum((tl.load(pointer_valid + b * L + start + lane) != 0).to(tl.int32), 0)
        present = tl.load(pointer_valid + b * L + position, mask=position < L, other=0) != 0
        row = count * rows + before + tl.cumsum(present.to(tl.int32), 0) - 1
        mask = present[:, None] & channel_mask
        cell = position[:, None] * m + channel[None, :]
        token = tl.load(pointers + b * L * m + cell, mask=mask, other=0.0).to(tl.float32)
        encoding = tl.load(pointer_encoding + b * L * m + cell, mask=mask, other=0.0).to(tl.float32)
        rotated = lane < 0
        position = lane * 0

    if h == 0:
        value = token
        if POOLING:
            value = tl.where(is_pooled, _means_of_four(token, BLOCK, WIDTH), token)
        value_ptrs = values + b * M * WIDTH + row[:, None] * WIDTH + channel[None, :]
        tl.store(value_ptrs, value.to(values.dtype.element_ty), mask=present[:, None])
        if POOLING == COUNTED:
            log_tokens = tl.math.log2(tokens.to(tl.float32))
            tl.store(offsets + b * M + row, log_tokens + tl.zeros([BLOCK], tl.float32), mask=present)
    dtype = values.dtype.element_ty
    pair = tl.arange(0, HALF)
    inside = pair < half
    scales += (b * H + h) * M  # before the products, because otherwise registers spill on sm_89 in fp8
    encoded = (token + encoding).to(dtype)
    weight_ptrs = weight + (h * 2 * half + 2 * pair[None, :]) * m + channel[:, None]  # (WIDTH, HALF)
    weight_mask = inside[None, :] & (channel < m)[:, None]
    even = tl.dot(encoded, tl.load(weight_ptrs, mask=weight_mask, other=0.0).to(dtype), input_precision=PRECISION)
    odd = tl.dot(encoded, tl.load(weight_ptrs + m, mask=weight_mask, other=0.0).to(dtype), input_precision=PRECISION)
    if HAS_BIAS:
        even += tl.load(bias + h * 2 * half + 2 * pair, mask=inside, other=0.0).to(tl.float32)[None, :]
        odd += tl.load(bias + h * 2 * half + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)[None, :]
    angle = position[:, None] * half + pair[None, :]
    even, odd = _rotate_pairs(even, odd, cos, sin, angle, rotated[:, None] & inside[None, :])
    if POOLING:
        added = RAISE if POOLING == RAISED else 0.0
        even = tl.where(is_pooled, _means_of_four(even, BLOCK, HALF) + added, even)
        odd = tl.where(is_pooled, _means_of_four(odd, BLOCK, HALF) + added, odd)
    key_ptrs = keys + (b * H + h) * M * (2 * HALF) + row[:, None] * (2 * HALF) + pair[None, :]
    if FP8:  # after the computation of key_ptrs, for the same reason
        even, odd = _scaled(scales, row, present, even, odd)
    _store_halves(key_ptrs, present[:, None], even, odd, HALF)
