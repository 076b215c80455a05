"""Run lengths in two passes over the masks: changes are counted by column, then written where they belong.

A program has a stretch of columns of one mask and walks down its rows. A change is a pixel of the canvas that differs
from the one before it, down the columns: the one above, or for a first row the last of the column to the left. Unless
the mask is as high as its canvas, that is background, and the row below the mask is looked at too, where what was
foreground ends. The changes of all columns, summed up, say where each column writes its own, so that nothing depends
on the order of programs.
"""

import itertools

import triton
import triton.language as tl

from sam2fast.kernels._launch import POINTERS, Compilation, LaunchConfig
from sam2fast.kernels.mask_ops.kernel import blend, neighbours


@triton.jit
def _pixels(
    image,  # (H, W) uint8, or (h, w) logits
    row,  # (BY) of the mask; what lies outside is background
    column,  # (BX)
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    UPSAMPLE: tl.constexpr,
    COPY: tl.constexpr,
):  # fmt: skip
    there = ((row >= 0) & (row < H))[:, None] & ((column >= 0) & (column < W))[None, :]
    if UPSAMPLE:
        y0, y1, v0, v1 = neighbours(row, scale_y, h, reach_y)
        x0, x1, u0, u1 = neighbours(column, scale_x, w, reach_x)
        return there & (blend(image, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY) > threshold)
    else:
        return tl.load(image + (row * W)[:, None] + column[None, :], mask=there, other=0) != 0


@triton.jit
def _changes(
    image,
    row,  # (BY)
    column,  # (BX)
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    y, x,  # of the mask on the canvas
    height,  # of the canvas
    pixels,  # of the canvas
    columns,
    UPSAMPLE: tl.constexpr,
    COPY: tl.constexpr,
    WHOLE: tl.constexpr,  # the mask is as high as the canvas
):  # fmt: skip
    """Which pixels differ from the one before, ``(BY, BX)``, and their number on the canvas."""
    here = _pixels(
        image, row, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY
    )  # fmt: skip
    before = _pixels(
        image, row - 1, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY
    )  # fmt: skip
    if WHOLE:
        last = tl.arange(0, 1) + (H - 1)
        left = _pixels(
            image, last, column - 1, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY
        )  # fmt: skip
        before = tl.where((row == 0)[:, None], left, before & (row < H)[:, None])
    inside = (column < columns)[None, :]
    # Of columns beyond the last, the number might pass 2**31.
    number = tl.where(inside, ((x + column) * height + y)[None, :] + row[:, None], 0)
    return inside & (here != before) & (number < pixels), number


@triton.jit
def _count_kernel(
    images,  # (N, H·W) uint8, or (N, h·w) logits
    counts,  # (N, columns) int32 out: changes of each column
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    y, x, height, pixels,
    rows, columns,  # that may hold changes
    stretches,  # of columns
    UPSAMPLE: tl.constexpr,
    COPY: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // stretches).to(tl.int64)
    column = (tl.program_id(0) % stretches) * BLOCK_X + tl.arange(0, BLOCK_X)
    if UPSAMPLE:
        image = images + n * h * w
    else:
        image = images + n * H * W
    total = tl.zeros([BLOCK_X], tl.int32)
    for start in tl.range(0, rows, BLOCK_Y):
        row = start + tl.arange(0, BLOCK_Y)
        changed, _ = _changes(
            image, row, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold,
            y, x, height, pixels, columns, UPSAMPLE, COPY, WHOLE,
        )  # fmt: skip
        total += tl.sum(changed.to(tl.int32), 0)
    tl.store(counts + n * columns + column, total, mask=column < columns)


@triton.jit
def _write_kernel(
    images,  # (N, H·W) uint8, or (N, h·w) logits
    counts,  # (N, columns) int32: changes of each column
    ends,  # (N, columns) int64: changes of all columns up to this one, of all masks
    begins,  # (changes + N) int32 out: where each run begins; a mask's first run does at 0
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    y, x, height, pixels,
    rows, columns,
    stretches,
    UPSAMPLE: tl.constexpr,
    COPY: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // stretches).to(tl.int64)
    column = (tl.program_id(0) % stretches) * BLOCK_X + tl.arange(0, BLOCK_X)
    if UPSAMPLE:
        image = images + n * h * w
    else:
        image = images + n * H * W
    inside = column < columns
    place = n * columns + column
    count = tl.load(counts + place, mask=inside, other=0)
    # Every mask so far, this one included, has a run that begins without a change.
    free = tl.load(ends + place, mask=inside, other=0) - count + n + 1
    tl.store(begins + free - 1, tl.zeros_like(count), mask=column == 0)
    for start in tl.range(0, rows, BLOCK_Y):
        row = start + tl.arange(0, BLOCK_Y)
        changed, number = _changes(
            image, row, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold,
            y, x, height, pixels, columns, UPSAMPLE, COPY, WHOLE,
        )  # fmt: skip
        one = changed.to(tl.int32)
        tl.store(begins + free[None, :] + (tl.cumsum(one, 0) - 1), number, mask=changed)
        free += tl.sum(one, 0)


@triton.jit
def _decode_kernel(
    ends,  # (total) int64: pixels of all runs up to this one, of all masks
    offsets,  # (N + 1) int64
    masks,  # (N, H·W) uint8 out
    H, W,
    blocks,  # of a mask
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = i < H * W
    pixel = n * H * W + (i % W) * H + i // W
    first = tl.load(offsets + n)
    # The run is the first that ends behind the pixel: it lies between low and high, and they meet.
    low = tl.zeros([BLOCK], tl.int32)
    high = tl.zeros([BLOCK], tl.int32) + tl.where(inside, (tl.load(offsets + n + 1) - first).to(tl.int32), 0)
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        open = low < high
        behind = tl.load(ends + first + middle, mask=open, other=0) > pixel
        high = tl.where(open & behind, middle, high)
        low = tl.where(open & (behind == 0), middle + 1, low)
    tl.store(masks + n * H * W + i, (low % 2).to(tl.uint8), mask=inside)


def compilations(config: LaunchConfig) -> list[Compilation]:
    """What one row of the launch table compiles: its shape class names the input, or ``decode``."""
    meta, found = config.meta, []
    if config.shape == "decode":
        return [Compilation(_decode_kernel, ("*i64", "*i64", "*u8", "i32", "i32", "i32"), meta, "uint8")]
    upsample = config.shape == "upsampled"
    rest = ("i32",) * 4 + ("fp32",) * 2 + ("i32",) * 2 + ("fp32",) + ("i32",) * 7
    for dtype, t in (POINTERS if upsample else {"uint8": "*u8"}).items():
        for whole, copy in itertools.product((False, True), (False, True) if upsample else (False,)):
            constants = {"UPSAMPLE": upsample, "COPY": copy, "WHOLE": whole, **meta}
            found.append(Compilation(_count_kernel, (t, "*i32", *rest), constants, dtype))
            found.append(Compilation(_write_kernel, (t, "*i32", "*i64", "*i32", *rest), constants, dtype))
    return found
