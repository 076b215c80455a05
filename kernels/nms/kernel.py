"""Non-maximum suppression in two launches: who overlaps whom, as bits, then who is kept, by one program.

Boxes or masks are taken best first, 64 to a word: bit j of word ``(i, b)`` says that i overlaps ``64·b + j`` too much.
A program computes half a word, of 32 bits, for each of 64. Who is kept depends on all who were kept before: a single
program walks over the words on the diagonal, and after each takes away what those kept overlap, in all later words at
once. So nothing goes to the host in between.
"""

import triton
import triton.language as tl

from sam2fast.kernels._launch import Compilation, LaunchConfig

WORD, HALF = tl.constexpr(64), tl.constexpr(32)  # bits
# Rows of words that are read at once.
ROWS = tl.constexpr(8)


@triton.jit
def _store_halves(
    words,  # (N, 2·blocks) int32 out: the lower half of each word, then the higher
    over,  # (64, 32) bool
    i,  # (64) rows
    N, blocks,
):  # fmt: skip
    bit = tl.full([HALF], 1, tl.int32) << tl.arange(0, HALF)
    packed = tl.sum(tl.where(over, bit[None, :], 0), 1)
    tl.store(words + i.to(tl.int64) * (2 * blocks) + tl.program_id(0), packed, mask=i < N)


@triton.jit
def _boxes_kernel(
    boxes,  # (N, 4) XYXY, fp32 or fp64, best first
    threshold,  # (1), of their dtype
    words,  # (N, 2·blocks) int32 out; of words left of the diagonal nothing is said
    N, blocks,
):  # fmt: skip
    if tl.program_id(0) // 2 >= tl.program_id(1):
        i = tl.program_id(1) * WORD + tl.arange(0, WORD)
        j = tl.program_id(0) * HALF + tl.arange(0, HALF)
        left_i = tl.load(boxes + i * 4, mask=i < N, other=0.0)
        top_i = tl.load(boxes + i * 4 + 1, mask=i < N, other=0.0)
        right_i = tl.load(boxes + i * 4 + 2, mask=i < N, other=0.0)
        bottom_i = tl.load(boxes + i * 4 + 3, mask=i < N, other=0.0)
        left_j = tl.load(boxes + j * 4, mask=j < N, other=0.0)
        top_j = tl.load(boxes + j * 4 + 1, mask=j < N, other=0.0)
        right_j = tl.load(boxes + j * 4 + 2, mask=j < N, other=0.0)
        bottom_j = tl.load(boxes + j * 4 + 3, mask=j < N, other=0.0)
        width = tl.minimum(right_i[:, None], right_j[None, :]) - tl.maximum(left_i[:, None], left_j[None, :])
        height = tl.minimum(bottom_i[:, None], bottom_j[None, :]) - tl.maximum(top_i[:, None], top_j[None, :])
        # A NaN here comes from a box whose area is NaN too, so that whatever a maximum makes of it does not matter.
        shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
        area_i = (right_i - left_i) * (bottom_i - top_i)
        area_j = (right_j - left_j) * (bottom_j - top_j)
        union = area_i[:, None] + area_j[None, :] - shared
        if boxes.dtype.element_ty == tl.float32:
            quotient = tl.div_rn(shared, union)
        else:
            quotient = shared / union
        _store_halves(words, quotient > tl.load(threshold), i, N, blocks)


@triton.jit
def _masks_kernel(
    masks,  # (N, pixels) int8, 0 or 1; the pixels are a multiple of 16
    order,  # (N) int64, best first
    areas,  # (N) int64, in that order
    threshold,  # (1) fp64
    words,  # (N, 2·blocks) int32 out; of words left of the diagonal nothing is said
    N, blocks, pixels,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    if tl.program_id(0) // 2 >= tl.program_id(1):
        i = tl.program_id(1) * WORD + tl.arange(0, WORD)
        j = tl.program_id(0) * HALF + tl.arange(0, HALF)
        row_i = masks + tl.load(order + i, mask=i < N, other=0) * pixels
        row_j = masks + tl.load(order + j, mask=j < N, other=0) * pixels
        total = tl.zeros([WORD, HALF], tl.int32)
        for start in tl.range(0, pixels, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            a = tl.load(row_i[:, None] + k[None, :], mask=(k < pixels)[None, :], other=0)
            b = tl.load(row_j[:, None] + k[None, :], mask=(k < pixels)[None, :], other=0)
            total = tl.dot(a, tl.trans(b), total, out_dtype=tl.int32)
        shared = total.to(tl.int64)
        area_i = tl.load(areas + i, mask=i < N, other=0)
        area_j = tl.load(areas + j, mask=j < N, other=0)
        union = area_i[:, None] + area_j[None, :] - shared
        quotient = shared.to(tl.float64) / tl.maximum(union, 1).to(tl.float64)
        _store_halves(words, (union > 0) & (quotient > tl.load(threshold)), i, N, blocks)


@triton.jit
def _keep_kernel(
    words,  # (N, blocks) int64
    kept,  # (N) uint8 out
    N, blocks,
    WIDTH: tl.constexpr,  # power of two, at least the blocks
):  # fmt: skip
    lane = tl.arange(0, WIDTH)
    bit = tl.arange(0, WORD).to(tl.int64)
    gone = tl.zeros([WIDTH], tl.int64)  # who is overlapped by one that is kept
    for block in tl.range(0, blocks):
        here = N - block * WORD  # of a word's bits or rows, those that there are
        out = tl.sum(tl.where(lane == block, gone, 0), 0)
        chosen = out * 0
        for i in tl.static_range(WORD):
            # Read whether or not it is wanted, so that no read waits for what was decided before.
            overlapped = tl.load(words + i * blocks + block, mask=i < here, other=0)
            free = ((out >> i) & 1) == 0
            chosen |= tl.where(free, 1, 0).to(tl.int64) << i
            # Of those before i, which the word may also name, everything is decided.
            out |= tl.where(free, overlapped, 0)
        tl.store(kept + bit, ((chosen >> bit) & 1).to(tl.uint8), mask=bit < here)
        for start in tl.range(0, WORD, ROWS):
            for k in tl.static_range(ROWS):
                row = start + k
                wanted = (((chosen >> row) & 1) != 0) & (row < here) & (lane > block) & (lane < blocks)
                gone |= tl.load(words + row * blocks + lane, mask=wanted, other=0)
        words += WORD * blocks
        kept += WORD


# A product and the difference after it must not be fused: what is exactly at the threshold would be decided otherwise.
UNFUSED = {"enable_fp_fusion": False}
# Widths of the last kernel that are compiled ahead: for 64, 3,000 and 10,000 boxes or masks.
WIDTHS = (1, 64, 256)


def compilations(config: LaunchConfig) -> list[Compilation]:
    """What one row of the launch table compiles: the overlaps of boxes or, of ``masks``, of those, and who is kept."""
    options, of_keeping = dict(config.options), {"num_warps": config.meta["KEEP_WARPS"]}
    found = [
        Compilation(_keep_kernel, ("*i64", "*u8", "i32", "i32"), {"WIDTH": width}, "int64", options=of_keeping)
        for width in WIDTHS
    ]
    if config.shape == "masks":
        types = ("*i8", "*i64", "*i64", "*fp64", "*i32", "i32", "i32", "i32:16")
        # The products of masks belong on tensor cores as much as those of attention.
        meta = {"BLOCK_K": config.meta["BLOCK_K"]}
        return [*found, Compilation(_masks_kernel, types, meta, "int8", is_attention=True)]
    for dtype, t in (("float32", "*fp32"), ("float64", "*fp64")):
        found.append(Compilation(_boxes_kernel, (t, t, "*i32", "i32", "i32"), {}, dtype, options=options | UNFUSED))
    return found
