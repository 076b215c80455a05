"""Performs non-maximum suppression in two launches: one computes overlaps as bits, the other selects kept items.

Items (boxes or masks) are ordered by descending score. Bit j of word ``(i, b)`` is 1 if the IoU of items i and ``64·b +
j`` exceeds the threshold. A program computes half words of 32 bits for 64 items. Each decision on an item needs all
earlier decisions, so a single program selects items. The program processes 64 items at a time: first selects among the
64 items, and then marks all later items that newly kept items suppress. No data is copied to the host between the
launches.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, LaunchConfig, launch_config

WORD, HALF = tl.constexpr(64), tl.constexpr(32)  # number of bits of a word and of half a word
# Number of items per loop step of _keep_kernel. All words of the items in a step are read at once.
ROWS = tl.constexpr(8)


@triton.jit
def _store_halves(
    words,  # (N, 2·blocks) int32 out: two halves of each 64-bit word, the lower half first
    over,  # (64, 32) bool, True for pairs of items with an IoU above the threshold
    i,  # (64) indices of the first items of pairs
    N, blocks,
):  # fmt: skip
    bit = tl.full([HALF], 1, tl.int32) << tl.arange(0, HALF)
    packed = tl.sum(tl.where(over, bit[None, :], 0), 1)
    tl.store(words + i.to(tl.int64) * (2 * blocks) + tl.program_id(0), packed, mask=i < N)


@triton.jit
def _corners(boxes, i, N):
    """Loads left, top, right and bottom coordinates of boxes."""
    left = tl.load(boxes + i * 4, mask=i < N, other=0.0)
    top = tl.load(boxes + i * 4 + 1, mask=i < N, other=0.0)
    right = tl.load(boxes + i * 4 + 2, mask=i < N, other=0.0)
    return left, top, right, tl.load(boxes + i * 4 + 3, mask=i < N, other=0.0)


@triton.jit
def _boxes_kernel(
    boxes,  # (N, 4) XYXY, fp32 or fp64, ordered by descending score
    threshold,  # (1), IoU threshold in the dtype of boxes
    words,  # (N, 2·blocks) int32 out: overlaps of each item with later items; other bits are undefined
    N, blocks,
):  # fmt: skip
    if tl.program_id(0) // 2 >= tl.program_id(1):
        i = tl.program_id(1) * WORD + tl.arange(0, WORD)
        j = tl.program_id(0) * HALF + tl.arange(0, HALF)
        left_i, top_i, right_i, bottom_i = _corners(boxes, i, N)
        left_j, top_j, right_j, bottom_j = _corners(boxes, j, N)
        width = tl.minimum(right_i[:, None], right_j[None, :]) - tl.maximum(left_i[:, None], left_j[None, :])
        height = tl.minimum(bottom_i[:, None], bottom_j[None, :]) - tl.maximum(top_i[:, None], top_j[None, :])
        # If a side is NaN, the IoU is NaN in any case, since the box's area is NaN.
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
    masks,  # (N, pixels) int8 0 or 1; ``pixels`` is a multiple of 16
    order,  # (N) int64 indices of masks, ordered by descending score
    areas,  # (N) int64 areas of masks, in the same order
    threshold,  # (1) fp64, IoU threshold
    words,  # (N, 2·blocks) int32 out: overlaps of each item with later items; other bits are undefined
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
    words,  # (N, blocks) int64, bits of overlaps
    keep,  # (N) uint8 out: 1 for kept items
    N, blocks,
    WIDTH: tl.constexpr,  # smallest power of two >= blocks
):  # fmt: skip
    lane = tl.arange(0, WIDTH)
    bit = tl.arange(0, WORD).to(tl.int64)
    suppressed = tl.zeros([WIDTH], tl.int64)  # bits, 1 for items that kept items suppress
    for block in tl.range(0, blocks):
        remaining = N - block * WORD  # number of items in this and later blocks
        removed = tl.sum(tl.where(lane == block, suppressed, 0), 0)
        kept_bits = removed * 0
        for start in tl.range(0, WORD, HALF):  # a whole word would need too many registers
            for k in tl.static_range(HALF):
                i = start + k
                # Words of dropped items are loaded too, so that loads do not wait for the selection of earlier items.
                overlapped = tl.load(words + i * blocks + block, mask=i < remaining, other=0)
                is_kept = ((removed >> i) & 1) == 0
                kept_bits |= tl.where(is_kept, 1, 0).to(tl.int64) << i
                # Bits of items before item i have no effect, since items before i are already kept or dropped.
                removed |= tl.where(is_kept, overlapped, 0)
        tl.store(keep + bit, ((kept_bits >> bit) & 1).to(tl.uint8), mask=bit < remaining)
        for start in tl.range(0, WORD, ROWS):
            for k in tl.static_range(ROWS):
                row = start + k
                end = tl.where((((kept_bits >> row) & 1) != 0) & (row < remaining), blocks, 0)
                suppressed |= tl.load(words + row * blocks + lane, mask=(lane > block) & (lane < end), other=0)
        words += WORD * blocks
        keep += WORD


# Triton option: products are rounded before subtractions, as in torch. Fusion would change IoUs close to the threshold.
UNFUSED = {"enable_fp_fusion": False}


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of warps of the kernel that computes IoUs, and of _keep_kernel (``KEEP_WARPS``)."""
    if shape == "masks":  # stages prefetch the operands of 64 x 32 matrix products
        return LaunchConfig({"BLOCK_K": 128, "KEEP_WARPS": 4}, {"num_warps": 4, "num_stages": 3})
    return LaunchConfig({"KEEP_WARPS": 4}, {"num_warps": 8})  # four warps spill registers in fp64


# The number of pixels of a mask is padded to a multiple of this number.
ALIGNED = 16


def box_nms_triton(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Computes :func:`sam2fast.kernels.nms.box_nms` on the GPU. Synchronises once, to read the number of kept boxes."""
    N, order = len(boxes), scores.sort(descending=True, stable=True).indices
    if N == 0:
        return order
    launch = launch_config("nms", config, boxes)
    threshold = torch.full((1,), iou_threshold, dtype=boxes.dtype, device=boxes.device)
    inputs = boxes[order].contiguous(), threshold
    return order[_keep(_boxes_kernel, inputs, N, (), launch, {**launch.options, **UNFUSED})]


def mask_nms_triton(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Computes :func:`sam2fast.kernels.nms.mask_nms` on the GPU. Synchronises once, to count kept masks."""
    N, order = len(masks), scores.sort(descending=True, stable=True).indices
    if N == 0:
        return order
    pixels = masks.contiguous().view(N, -1).view(torch.int8)
    if pixels.shape[1] % ALIGNED:
        pixels = F.pad(pixels, (0, -pixels.shape[1] % ALIGNED))
    launch = launch_config("nms", config, pixels, "masks")
    threshold = torch.full((1,), iou_threshold, dtype=torch.float64, device=masks.device)
    inputs = pixels, order, pixels.sum(1, dtype=torch.int64)[order], threshold
    options = {"BLOCK_K": launch.meta["BLOCK_K"], **launch.options, **FUSED}
    return order[_keep(_masks_kernel, inputs, N, (pixels.shape[1],), launch, options)]


def _keep(overlaps_kernel, inputs, N, numbers, launch, options) -> Tensor:
    """Returns bool ``(N)``, True for kept items. Items are ordered by descending score.

    ``overlaps_kernel`` is launched with ``inputs``, and with ``numbers`` after the number of blocks.
    """
    blocks = triton.cdiv(N, WORD.value)
    words = torch.empty(N, blocks, dtype=torch.int64, device=inputs[0].device)
    keep = torch.empty(N, dtype=torch.bool, device=words.device)
    width, warps = triton.next_power_of_2(blocks), launch.meta["KEEP_WARPS"]
    count_launch("nms")
    with launch.on_device(words):
        overlaps_kernel[(2 * blocks, blocks)](*inputs, words.view(torch.int32), N, blocks, *numbers, **options)
        _keep_kernel[(1,)](words, keep.view(torch.uint8), N, blocks, WIDTH=width, num_warps=warps, **FUSED)
    return keep
