"""Computes run lengths in two passes over the masks: one counts changes per column, the other writes changes.

A program processes a block of columns of one mask and loops over rows. A change is a pixel of the canvas that differs
from the previous pixel in column-major order: from the pixel above, or in the first row from the last pixel of the
column to the left. If the mask is lower than its canvas, the last pixel of a column is background, and the row
below the mask is checked for ends of runs. The cumulative sum of changes over all columns gives the position at which
each column writes its changes, so the result does not depend on the order of programs.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import ANY, FUSED, LaunchConfig, launch_config
from sam2fast.kernels.mask_ops.kernel import blend, neighbours
from sam2fast.kernels.mask_ops.launch import as_compared, axes_of, copies


@triton.jit
def _pixels(
    image,  # mask (H, W) uint8; with UPSAMPLE, logits (h, w)
    row,  # (BY), rows of the mask; rows outside of the mask are background
    column,  # (BX)
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    UPSAMPLE: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    mask = ((row >= 0) & (row < H))[:, None] & ((column >= 0) & (column < W))[None, :]
    if UPSAMPLE:
        y0, y1, v0, v1 = neighbours(row, scale_y, h, reach_y)
        x0, x1, u0, u1 = neighbours(column, scale_x, w, reach_x)
        return mask & (blend(image, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY) > threshold)
    else:
        return tl.load(image + (row * W)[:, None] + column[None, :], mask=mask, other=0) != 0


@triton.jit
def _changes(
    image,
    row,  # (BY)
    column,  # (BX)
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    y, x,  # position of the mask's top left pixel on the canvas
    height,  # height of the canvas
    pixels,  # number of pixels of the canvas
    columns,
    UPSAMPLE: tl.constexpr, COPY: tl.constexpr,
    WHOLE: tl.constexpr,  # True if the mask is as high as the canvas
):  # fmt: skip
    """Returns True for each pixel that differs from the previous pixel, and the pixels' indices on the canvas.

    Both results are tensors ``(BY, BX)``. Indices are column-major.
    """
    current = _pixels(image, row, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY)
    previous = _pixels(
        image, row - 1, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY
    )  # fmt: skip
    if WHOLE:
        last = tl.arange(0, 1) + (H - 1)
        left = _pixels(
            image, last, column - 1, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold, UPSAMPLE, COPY
        )  # fmt: skip
        previous = tl.where((row == 0)[:, None], left, previous & (row < H)[:, None])
    inside = (column < columns)[None, :]
    # Indices beyond the last column are set to 0, since such indices could exceed 2**31.
    number = tl.where(inside, ((x + column) * height + y)[None, :] + row[:, None], 0)
    return inside & (current != previous) & (number < pixels), number


@triton.jit
def _changes_kernel(
    images,  # masks (N, H·W) uint8; with UPSAMPLE, logits (N, h·w)
    counts,  # (N, columns) int32, number of changes in each column: read with WRITES, otherwise written
    ends,  # (N, columns) int64, cumulative sum of counts over all masks; used only with WRITES
    begins,  # (changes + N) int32 out: first pixel of each run, 0 for a mask's first run; used only with WRITES
    h, w, H, W,
    scale_y, scale_x, reach_y, reach_x,
    threshold,
    y, x, height, pixels,
    rows, columns,  # numbers of rows and columns that may contain changes
    stretches,  # number of blocks of columns per mask
    WRITES: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    COPY: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Counts the changes of each column, or writes the changes."""
    n = (tl.program_id(0) // stretches).to(tl.int64)
    column = (tl.program_id(0) % stretches) * BLOCK_X + tl.arange(0, BLOCK_X)
    if UPSAMPLE:
        image = images + n * h * w
    else:
        image = images + n * H * W
    inside = column < columns
    offset = n * columns + column
    if WRITES:
        count = tl.load(counts + offset, mask=inside, other=0)
        # Runs begin at changes, except the first run of each of the n + 1 masks up to this mask.
        next_run = tl.load(ends + offset, mask=inside, other=0) - count + n + 1
        tl.store(begins + next_run - 1, tl.zeros_like(count), mask=column == 0)
    else:
        total = tl.zeros([BLOCK_X], tl.int32)
    for start in tl.range(0, rows, BLOCK_Y):
        row = start + tl.arange(0, BLOCK_Y)
        changed, number = _changes(
            image, row, column, h, w, H, W, scale_y, scale_x, reach_y, reach_x, threshold,
            y, x, height, pixels, columns, UPSAMPLE, COPY, WHOLE,
        )  # fmt: skip
        one = changed.to(tl.int32)
        if WRITES:
            tl.store(begins + next_run[None, :] + (tl.cumsum(one, 0) - 1), number, mask=changed)
            next_run += tl.sum(one, 0)
        else:
            total += tl.sum(one, 0)
    if not WRITES:
        tl.store(counts + offset, total, mask=inside)


@triton.jit
def _decode_kernel(
    ends,  # (total) int64, cumulative sum of run lengths over all masks
    offsets,  # (N + 1) int64, index of each mask's first run
    masks,  # (N, H·W) uint8 out
    H, W,
    blocks,  # number of programs per mask
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = i < H * W
    pixel = n * H * W + (i % W) * H + i // W
    first = tl.load(offsets + n)
    # Binary search finds the first run that ends after the pixel.
    low = tl.zeros([BLOCK], tl.int32)
    high = tl.zeros([BLOCK], tl.int32) + tl.where(inside, (tl.load(offsets + n + 1) - first).to(tl.int32), 0)
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        open = low < high
        behind = tl.load(ends + first + middle, mask=open, other=0) > pixel
        high = tl.where(open & behind, middle, high)
        low = tl.where(open & (behind == 0), middle + 1, low)
    tl.store(masks + n * H * W + i, (low % 2).to(tl.uint8), mask=inside)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the block size of a program, as rows x columns, or as a number of pixels for ``decode``."""
    if shape == "decode":
        return LaunchConfig({"BLOCK": 512}, {"num_warps": 4})
    if shape == "upsampled":  # with more than two pixels per thread, registers spill on sm_90
        return LaunchConfig({"BLOCK_Y": 16, "BLOCK_X": 32}, {"num_warps": 8})
    return LaunchConfig({"BLOCK_Y": 32, "BLOCK_X": 64}, {"num_warps": 4})


def encode_masks_triton(masks) -> tuple[Tensor, Tensor]:
    """Computes :func:`sam2fast.kernels.run_lengths.encode_masks` on the GPU. Synchronises once."""
    N, H, W = masks.shape
    if H * W == 0:
        return torch.zeros(N, dtype=torch.int32, device=masks.device), torch.arange(N + 1, device=masks.device)
    return _encode(masks.contiguous().view(torch.uint8), (H, W), 0.0, (0, 0), (H, W))


def encode_upsampled_triton(logits, size, threshold, origin, canvas) -> tuple[Tensor, Tensor]:
    """Computes :func:`sam2fast.kernels.run_lengths.encode_upsampled` on the GPU. Synchronises once."""
    return _encode(logits.contiguous(), size, threshold, origin, canvas, "upsampled")


def _encode(images, size, threshold, origin, canvas, shape=ANY) -> tuple[Tensor, Tensor]:
    """Encodes masks as run lengths. With the shape class ``upsampled``, ``images`` are logits of masks."""
    (N, h, w), (H, W), (y, x), (height, width), device = images.shape, size, origin, canvas, images.device
    launch, upsample = launch_config("run_lengths", config, images, shape), shape == "upsampled"
    pixels, whole = height * width, height == H
    # A background run may begin after the mask: in the row below, or in the next column if the mask is as high as the
    # canvas.
    rows = H if whole else H + 1
    columns = min(W + 1, width - x) if whole else W
    if N == 0:
        return images.new_empty(0, dtype=torch.int32), torch.arange(1, device=device)
    stretches = triton.cdiv(columns, launch.meta["BLOCK_X"])
    of_input = (h, w, H, W, *axes_of(images, size), as_compared(threshold))
    rest = (*of_input, y, x, height, pixels, rows, columns, stretches)
    copy = upsample and copies(images, size)
    constants = {"UPSAMPLE": upsample, "COPY": copy, "WHOLE": whole, **launch.meta, **launch.options, **FUSED}
    grid = (N * stretches,)
    per_column = torch.empty(N, columns, dtype=torch.int32, device=device)
    count_launch("run_lengths")
    with launch.on_device(images):
        _changes_kernel[grid](images, per_column, per_column, per_column, *rest, WRITES=False, **constants)
    ends = per_column.view(-1).cumsum(0, dtype=torch.int64)
    offsets = torch.arange(N + 1, device=device)
    offsets[1:] += ends.view(N, columns)[:, -1]
    begins = torch.empty(int(offsets[-1]), dtype=torch.int32, device=device)  # synchronises with the GPU
    with launch.on_device(images):
        _changes_kernel[grid](images, per_column, ends, begins, *rest, WRITES=True, **constants)
    # A run ends where the next run begins. The last run of a mask ends at the end of the canvas.
    behind = begins.roll(-1).index_fill_(0, offsets[1:] - 1, pixels)
    return behind.sub_(begins), offsets


def decode_masks_triton(counts, offsets, H, W) -> Tensor:
    """Computes :func:`sam2fast.kernels.run_lengths.decode_masks` on the GPU without synchronising."""
    N = len(offsets) - 1
    masks = torch.empty(N, H, W, dtype=torch.bool, device=counts.device)
    if masks.numel() == 0:
        return masks
    launch = launch_config("run_lengths", config, counts, "decode")
    blocks = triton.cdiv(H * W, launch.meta["BLOCK"])
    ends, offsets = counts.contiguous().cumsum(0, dtype=torch.int64), offsets.contiguous()
    out = masks.view(torch.uint8)
    launch.launch("run_lengths", _decode_kernel, (N * blocks,), ends, offsets, out, H, W, blocks, **launch.meta)
    return masks
