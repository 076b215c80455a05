"""Finds connected components by union-find over pixels, and fills holes, in four launches each.

``labels`` stores the forest of union-find: for each pixel, the index of its parent in the same mask. A parent's index
is at most the pixel's index, so the root of a tree is its first pixel. ``areas`` stores the size of each tree at its
root.

The kernels are correct for concurrent programs in any order:

- *Only roots are linked, and only to smaller pixels.* ``_union`` finds the roots of both pixels, and applies an atomic
  minimum to the parent of the larger root. If the old parent was the root itself, the link is complete. Otherwise
  another program has linked the root to another parent. The atomic minimum stores the smaller of the two parents, and
  ``_union`` then joins both parents. Thus both pixels of every edge end in one tree, and no link is lost.
- *The loop of ``_union`` terminates.* Indices of parents only decrease and are never negative. After each failed
  attempt, the loop continues with a pair of smaller pixels.
- *Stale reads are harmless.* An outdated parent is still an ancestor, since trees only merge. Only the atomic operation
  sets links. Loads are volatile, so that loops eventually see the links of other programs. Relaxed memory order is
  enough: within a launch, programs exchange only parents, and each parent is a single aligned word.
- *Concurrent path compression* replaces a pixel's parent by the root, which is an ancestor of the pixel.
- Launches on one stream are ordered. All links are complete before pixels are pointed at roots, and all areas are
  complete before areas are read.

In any order of programs, the root is the smallest pixel of its component, so labels are deterministic. Areas are sums
of integers, so areas are deterministic.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, LaunchConfig, launch_config
from sam2fast.kernels.connected_components import empty_results
from sam2fast.kernels.mask_ops.reference import FILLED_IN_VIDEO


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _block_offsets(
    pixels,  # H·W
    BLOCK: tl.constexpr,
):
    """Returns the offset of this program's mask (int64, as N·H·W may exceed 2**31), and its block's offset in the mask.

    The grid has one axis for all masks, since the second and third axes are limited to 65,535 programs.
    """
    blocks = tl.cdiv(pixels, BLOCK)
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64) * pixels, (program % blocks) * BLOCK


@triton.jit
def _find(
    parents,  # (H·W) int32 of one mask
    pixel,  # (BLOCK) int32
    active,  # (BLOCK) bool; for False, the pixel itself is returned instead of its root
):
    parent = tl.where(active, tl.load(parents + pixel, mask=active, other=0, volatile=True), pixel)
    while tl.max((parent != pixel).to(tl.int32), 0) > 0:
        pixel = parent
        parent = tl.where(active, tl.load(parents + pixel, mask=active, other=0, volatile=True), pixel)
    return pixel


@triton.jit
def _union(
    parents,  # (H·W) int32 of one mask
    a,  # (BLOCK) int32
    b,  # (BLOCK) int32
    active,  # (BLOCK) bool, True if pixels a and b are joined
):
    a = tl.where(active, a, 0)
    b = tl.where(active, b, 0)
    while tl.max(active.to(tl.int32), 0) > 0:
        a = _find(parents, a, active)
        b = _find(parents, b, active)
        low = tl.minimum(a, b)
        high = tl.maximum(a, b)
        active = active & (low != high)
        old = tl.atomic_min(parents + high, low, mask=active, sem="relaxed")
        active = active & (old != high)  # if high was not a root, the parent of high is joined with low
        a = tl.where(active, old, 0)
        b = tl.where(active, low, 0)


@triton.jit
def _start_kernel(
    logits,  # (N, H·W); only with HOLES, components of the background (logits <= 0) are labelled
    mask,  # (N, H·W) uint8, 1 for pixels to label; with HOLES, the kernel writes the mask, otherwise reads it
    labels,  # (N, H·W) int32 out: first pixel of each pixel's horizontal run within its block of pixels
    areas,  # (N, H·W) int32 out: set to 0
    pixels,  # H·W
    W,
    HOLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image, first = _block_offsets(pixels, BLOCK)
    i = first + tl.arange(0, BLOCK)
    inside = i < pixels
    has_left = inside & (i % W != 0)
    if HOLES:
        foreground = tl.load(logits + image + i, mask=inside, other=1) <= 0
        left = tl.load(logits + image + i - 1, mask=has_left, other=1) <= 0
        tl.store(mask + image + i, foreground.to(tl.uint8), mask=inside)
    else:
        foreground = tl.load(mask + image + i, mask=inside, other=0) != 0
        left = tl.load(mask + image + i - 1, mask=has_left, other=0) != 0
    begins = (foreground & left) == 0
    first_lane = tl.arange(0, BLOCK) == 0
    start = tl.associative_scan(tl.where(begins | first_lane, i, 0), 0, _larger)
    tl.store(labels + image + i, tl.where(foreground, start, i), mask=inside)
    tl.store(areas + image + i, tl.zeros_like(i), mask=inside)


@triton.jit
def _merge_kernel(
    mask,  # (N, H·W) uint8
    labels,  # (N, H·W) int32: parents of pixels
    pixels,  # H·W
    W,
    BLOCK: tl.constexpr,
):
    image, first = _block_offsets(pixels, BLOCK)
    i = first + tl.arange(0, BLOCK)
    ptrs = mask + image + i
    x = i % W
    foreground = tl.load(ptrs, mask=i < pixels, other=0) != 0
    has_left = foreground & (x > 0)
    has_above = foreground & (i >= W)
    left = tl.load(ptrs - 1, mask=has_left, other=0) != 0
    above = tl.load(ptrs - W, mask=has_above, other=0) != 0
    above_left = tl.load(ptrs - W - 1, mask=has_above & has_left, other=0) != 0
    above_right = tl.load(ptrs - W + 1, mask=has_above & (x < W - 1), other=0) != 0
    parents = labels + image

    # Each horizontal run within a block is a tree. Only runs across block boundaries need joining.
    _union(parents, i, i - 1, left & (tl.arange(0, BLOCK) == 0))
    # The edge to the pixel above is redundant if the same run covers the pixel above the left neighbour. The edge to
    # the upper left pixel is redundant if the pixel above or to the left is foreground.
    upwards = above & ((left & above_left) == 0)
    to_the_left = above_left & (above == 0) & (left == 0)
    _union(parents, i, tl.where(above, i - W, i - W - 1), upwards | to_the_left)
    # The edge to the upper right pixel is redundant if the pixel above is foreground.
    _union(parents, i, i - W + 1, above_right & (above == 0))


@triton.jit
def _count_kernel(
    mask,  # (N, H·W) uint8
    labels,  # (N, H·W) int32, in and out: the kernel replaces parents of pixels by roots of pixels
    areas,  # (N, H·W) int32 out: area of each component, stored at the component's root
    pixels,  # H·W
    BLOCK: tl.constexpr,
):
    image, first = _block_offsets(pixels, BLOCK)
    lane = tl.arange(0, BLOCK)
    i = first + lane
    foreground = tl.load(mask + image + i, mask=i < pixels, other=0) != 0
    parents = labels + image
    root = _find(parents, i, foreground)
    tl.store(parents + i, root, mask=foreground)

    # Each run of pixels adds its end to the root's area and subtracts its start: two atomic operations per run.
    has_before = foreground & (lane > 0)
    has_after = foreground & (lane < BLOCK - 1) & (i + 1 < pixels)
    before = has_before & (tl.load(mask + image + i - 1, mask=has_before, other=0) != 0)
    after = has_after & (tl.load(mask + image + i + 1, mask=has_after, other=0) != 0)
    before = before & (_find(parents, tl.where(before, i - 1, i), before) == root)
    after = after & (_find(parents, tl.where(after, i + 1, i), after) == root)
    starts = foreground & (before == 0)
    ends = foreground & (after == 0)
    change = tl.where(ends, i + 1, 0) - tl.where(starts, i, 0)
    tl.atomic_add(areas + image + root, change, mask=starts | ends, sem="relaxed")


@triton.jit
def _finish_kernel(
    logits,  # (N, H·W); used only with HOLES
    mask,  # (N, H·W) uint8
    labels,  # (N, H·W) int32: roots of pixels; without HOLES, the kernel replaces roots by labels
    areas,  # (N, H·W) int32: areas of components, at roots; without HOLES, the kernel writes areas at all pixels
    out,  # (N, H·W) out, used only with HOLES: logits, or ``value`` at pixels of small components
    pixels,  # H·W
    max_area,
    value,
    HOLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image, first = _block_offsets(pixels, BLOCK)
    i = first + tl.arange(0, BLOCK)
    inside = i < pixels
    foreground = tl.load(mask + image + i, mask=inside, other=0) != 0
    root = tl.load(labels + image + i, mask=foreground, other=0)
    area = tl.load(areas + image + root, mask=foreground, other=0)
    if HOLES:
        logit = tl.load(logits + image + i, mask=inside, other=0)
        tl.store(out + image + i, tl.where(foreground & (area <= max_area), value, logit), mask=inside)
    else:  # writing in place is safe: other programs read only the areas of roots, which keep their values
        tl.store(labels + image + i, tl.where(foreground, root + 1, 0), mask=inside)
        tl.store(areas + image + i, area, mask=inside)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of pixels per program: one pixel per thread.

    Many threads hide the memory latency of searches for roots. With two pixels per thread, registers spill on sm_120.
    """
    return LaunchConfig({"BLOCK": 512}, {"num_warps": 16})


def connected_components_triton(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes :func:`sam2fast.kernels.connected_components.connected_components` on the GPU without synchronising."""
    labels, areas = empty_results(mask)
    mask = mask.contiguous().view(torch.uint8)
    _launch("connected_components", mask, mask, labels, areas, mask, 0, HOLES=False)
    return labels, areas


def fill_holes_triton(logits: torch.Tensor, max_area: float) -> torch.Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.fill_holes_in_mask_scores` on the GPU without synchronising."""
    logits = logits.contiguous()
    out, mask = torch.empty_like(logits), torch.empty_like(logits, dtype=torch.uint8)
    labels, areas = empty_results(logits)
    most = int(min(max_area, 2**31 - 1))
    _launch("fill_holes_in_mask_scores", logits, mask, labels, areas, out, most, HOLES=True)
    return out


def _launch(op, logits, mask, labels, areas, out, most, HOLES) -> None:
    """Finds the components of ``mask``. With ``HOLES``, fills small background components of ``logits`` instead."""
    N, _, H, W = logits.shape
    if logits.numel() == 0:
        return
    launch = launch_config("connected_components", config, logits)
    options = {**launch.meta, **launch.options, **FUSED}
    grid, pixels = (N * triton.cdiv(H * W, launch.meta["BLOCK"]),), H * W
    count_launch(op)
    with launch.on_device(logits):
        _start_kernel[grid](logits, mask, labels, areas, pixels, W, HOLES=HOLES, **options)
        _merge_kernel[grid](mask, labels, pixels, W, **options)
        _count_kernel[grid](mask, labels, areas, pixels, **options)
        numbers = pixels, most, FILLED_IN_VIDEO
        _finish_kernel[grid](logits, mask, labels, areas, out, *numbers, HOLES=HOLES, **options)
