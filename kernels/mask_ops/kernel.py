"""Upsamples mask logits in registers, and computes binary masks, packed masks, and statistics of masks.

A program processes a band of rows of one mask and loops over columns. Thresholds are rounded to fp32, as in torch. The
number of logits ``h·w`` and of pixels ``H·W`` of a mask is below 2**31, but not the number of pixels of all masks.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

# Upper limit of an object's logits at pixels that are assigned to other objects.
SUPPRESSED = tl.constexpr(-10.0)
# Number of elements of counts and boxes that each program of _clear_kernel writes.
CLEARED = 256


@triton.jit
def neighbours(
    position,  # int32, index of an output row or column
    scale,  # fp32, input size / output size along the axis
    size,  # number of input rows or columns
    reach,  # distance between the two input rows or columns: 1, or 0 if torch does not interpolate along the axis
):
    """Returns the two input rows (or columns) next to an output row (or column), and their interpolation weights."""
    source = tl.maximum(tl.fma(position.to(tl.float32) + 0.5, scale, -0.5), 0.0)
    near = tl.minimum(source.to(tl.int32), size - 1)
    far = tl.minimum(near + reach, size - 1)
    weight = source - near.to(tl.float32)
    return near, far, 1.0 - weight, weight


@triton.jit
def blend(
    image,  # pointer to logits (h, w) of any float dtype
    w,
    y0, y1, v0, v1,  # (BY) input rows y0 and y1, with weights v0 and v1
    x0, x1, u0, u1,  # (BX) input columns x0 and x1, with weights u0 and u1
    COPY: tl.constexpr,  # True if input and output sizes are equal
):  # fmt: skip
    """Returns interpolated logits ``(BY, BX)`` in fp32."""
    upper = image + (y0 * w)[:, None]
    a = tl.load(upper + x0[None, :]).to(tl.float32)
    if COPY:
        return a
    else:
        lower = image + (y1 * w)[:, None]
        b = tl.load(upper + x1[None, :]).to(tl.float32)
        c = tl.load(lower + x0[None, :]).to(tl.float32)
        d = tl.load(lower + x1[None, :]).to(tl.float32)
        above = tl.fma(u0[None, :], a, u1[None, :] * b)
        below = tl.fma(u0[None, :], c, u1[None, :] * d)
        return tl.fma(v0[:, None], above, v1[:, None] * below)


@triton.jit
def _clear_kernel(
    counts,  # (3, N) int32 out: set to 0
    boxes,  # (N, 4) int32 out: set to the box of an empty mask
    N, H, W,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(counts + i, tl.zeros_like(i), mask=i < 3 * N)
    corner = i % 4
    tl.store(boxes + i, tl.where(corner == 0, W, tl.where(corner == 1, H, -1)), mask=i < 4 * N)


@triton.jit
def _statistics_kernel(
    logits,  # (N, h, w) of any float dtype
    counts,  # (3, N) int32 out, initialized by _clear_kernel
    boxes,  # (N, 4) int32 out, initialized by _clear_kernel
    N, h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold, higher, lower,
    bands,  # number of bands of rows per mask
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) // bands
    logits += n.to(tl.int64) * h * w
    y = (tl.program_id(0) % bands) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    y0, y1, v0, v1 = neighbours(y, scale_y, h, reach_y)
    area = tl.zeros([BLOCK_Y, BLOCK_X], tl.int32)
    above = tl.zeros([BLOCK_Y, BLOCK_X], tl.int32)
    below = tl.zeros([BLOCK_Y, BLOCK_X], tl.int32)
    first = tl.full([BLOCK_X], 2147483647, tl.int32)
    last = tl.full([BLOCK_X], -1, tl.int32)
    for start in tl.range(0, W, BLOCK_X):
        x = start + tl.arange(0, BLOCK_X)
        x0, x1, u0, u1 = neighbours(x, scale_x, w, reach_x)
        value = blend(logits, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY)
        mask = (y < H)[:, None] & (x < W)[None, :]
        inside = (mask & (value > threshold)).to(tl.int32)
        area += inside
        above += (mask & (value > higher)).to(tl.int32)
        below += (mask & (value > lower)).to(tl.int32)
        column = tl.max(inside, 0) > 0
        first = tl.minimum(first, tl.where(column, x, 2147483647))
        last = tl.maximum(last, tl.where(column, x, -1))

    rows = tl.sum(area, 1)
    total = tl.sum(rows, 0)
    seen = total > 0
    # Atomic sums, minima and maxima of integers do not depend on the order of programs.
    tl.atomic_add(counts + n, total, mask=seen, sem="relaxed")
    total = tl.sum(tl.sum(above, 1), 0)
    tl.atomic_add(counts + N + n, total, mask=total > 0, sem="relaxed")
    total = tl.sum(tl.sum(below, 1), 0)
    tl.atomic_add(counts + 2 * N + n, total, mask=total > 0, sem="relaxed")
    boxes += n * 4
    tl.atomic_min(boxes, tl.min(first, 0), mask=seen, sem="relaxed")
    tl.atomic_min(boxes + 1, tl.min(tl.where(rows > 0, y, 2147483647), 0), mask=seen, sem="relaxed")
    tl.atomic_max(boxes + 2, tl.max(last, 0), mask=seen, sem="relaxed")
    tl.atomic_max(boxes + 3, tl.max(tl.where(rows > 0, y, -1), 0), mask=seen, sem="relaxed")


@triton.jit
def _upsample_kernel(
    logits,  # (N, h, w) of any float dtype
    out,  # (N, H, W) out: uint8, 1 for foreground; with PROBABILITIES, float probabilities times scale plus bias
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    scale, bias,
    bands,
    PROBABILITIES: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // bands).to(tl.int64)
    logits += n * h * w
    out += n * H * W
    y = (tl.program_id(0) % bands) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    y0, y1, v0, v1 = neighbours(y, scale_y, h, reach_y)
    for start in tl.range(0, W, BLOCK_X):
        x = start + tl.arange(0, BLOCK_X)
        x0, x1, u0, u1 = neighbours(x, scale_x, w, reach_x)
        value = blend(logits, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY)
        if PROBABILITIES:
            result = tl.fma(tl.sigmoid(value), scale, bias)
        else:
            result = (value > threshold).to(tl.uint8)
        mask = (y < H)[:, None] & (x < W)[None, :]
        tl.store(out + (y * W)[:, None] + x[None, :], result, mask=mask)


@triton.jit
def _threshold_and_pack_kernel(
    logits,  # (N, h, w) of any float dtype
    out,  # (N, H, width) uint8 out: packed masks; the leftmost of eight pixels is the lowest bit
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    width,  # ceil(W / 8)
    threshold,
    bands,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # width of a block in bytes of output
    COPY: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // bands).to(tl.int64)
    logits += n * h * w
    out += n * H * width
    y = (tl.program_id(0) % bands) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    y0, y1, v0, v1 = neighbours(y, scale_y, h, reach_y)
    for start in tl.range(0, width, BLOCK_X):
        byte = start + tl.arange(0, BLOCK_X)
        bits = tl.zeros([BLOCK_Y, BLOCK_X], tl.int32)
        for k in tl.static_range(8):
            x = byte * 8 + k
            x0, x1, u0, u1 = neighbours(x, scale_x, w, reach_x)
            value = blend(logits, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY)
            bits += ((value > threshold) & (x < W)[None, :]).to(tl.int32) << k
        mask = (y < H)[:, None] & (byte < width)[None, :]
        tl.store(out + (y * width)[:, None] + byte[None, :], bits.to(tl.uint8), mask=mask)


@triton.jit
def _pack_kernel(
    masks,  # (rows, W) uint8, pixels with value 0 or 1
    out,  # (rows, width) uint8
    rows, W,
    width,  # ceil(W / 8)
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # width of a block in bytes of output
):  # fmt: skip
    stretches = tl.cdiv(width, BLOCK_X)
    row = (tl.program_id(0) // stretches).to(tl.int64) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    byte = (tl.program_id(0) % stretches) * BLOCK_X + tl.arange(0, BLOCK_X)
    mask = (row < rows)[:, None] & (byte < width)[None, :]
    bits = tl.zeros([BLOCK_Y, BLOCK_X], tl.int32)
    for k in tl.static_range(8):
        x = byte * 8 + k
        pixel = tl.load(masks + (row * W)[:, None] + x[None, :], mask=mask & (x < W)[None, :], other=0)
        bits += (pixel != 0).to(tl.int32) << k
    tl.store(out + (row * width)[:, None] + byte[None, :], bits.to(tl.uint8), mask=mask)


@triton.jit
def _unpack_kernel(
    packed,  # (rows, width) uint8
    out,  # (rows, W) uint8 out: pixels with value 0 or 1
    rows, W,
    width,  # ceil(W / 8)
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # width of a block in pixels
):  # fmt: skip
    stretches = tl.cdiv(W, BLOCK_X)
    row = (tl.program_id(0) // stretches).to(tl.int64) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = (tl.program_id(0) % stretches) * BLOCK_X + tl.arange(0, BLOCK_X)
    mask = (row < rows)[:, None] & (x < W)[None, :]
    bits = tl.load(packed + (row * width)[:, None] + (x // 8)[None, :], mask=mask, other=0).to(tl.int32)
    tl.store(out + (row * W)[:, None] + x[None, :], ((bits >> (x % 8)[None, :]) & 1).to(tl.uint8), mask=mask)


@triton.jit
def _overlaps_kernel(
    logits,  # (N, pixels) of any float dtype
    out,  # (N, pixels)
    N, pixels,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < pixels
    owner = tl.zeros([BLOCK], tl.int32)
    best = tl.load(logits + i, mask=mask, other=0.0).to(tl.float32)
    source = logits + i
    for n in tl.range(1, N):
        source += pixels
        value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        # Among objects with equal logits, the first object gets the pixel. NaN counts as larger than every number.
        better = (value > best) | (value != value)
        owner = tl.where(better, n, owner)
        best = tl.where(better, value, best)
    source = logits + i
    target = out + i
    for n in tl.range(0, N):
        value = tl.load(source, mask=mask, other=0.0)
        lowered = tl.where(value > SUPPRESSED, SUPPRESSED, value)  # keeps NaN logits
        tl.store(target, tl.where(owner == n, value, lowered).to(value.dtype), mask=mask)
        source += pixels
        target += pixels
