"""The types of run lengths, and their reference implementations."""

from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_threshold_reference


class RunLengths(NamedTuple):
    """Masks as lengths of runs in column-major order, alternately background and foreground.

    The counts equal COCO's uncompressed ones, ``{"size": [H, W], "counts": [...]}``.
    """

    counts: Tensor  # (total) int32, pixels; a mask's first run is background and may be 0
    offsets: Tensor  # (N + 1) int64, where each mask's runs begin in counts, and the total
    size: tuple[int, int]  # (H, W)


class Placement(NamedTuple):
    """Position of a mask on a larger canvas, which is background elsewhere."""

    origin: tuple[int, int]  # (y, x) of its top left pixel
    canvas: tuple[int, int]  # (H, W)


# Pixels of masks made from logits that are held at once.
CHUNK = 1 << 22


def encode_masks_reference(masks: Tensor) -> RunLengths:
    """Reference implementation of :func:`encode_masks`: changes along one column of all pixels of all masks."""
    N, H, W = masks.shape
    pixels = masks.transpose(1, 2).reshape(-1)  # (N·W·H) down the columns, one mask after the other
    before = torch.zeros_like(pixels)  # the previous pixel; background before a mask's first pixel
    before[1:] = pixels[:-1]
    before.view(N, W * H)[:, :1] = False
    changes = (pixels ^ before).nonzero()[:, 0]
    each = torch.arange(N + 1, device=masks.device) * (W * H)
    offsets = torch.searchsorted(changes, each) + torch.arange(N + 1, device=masks.device)
    mask_of_change = torch.searchsorted(each[1:], changes, right=True)
    # A mask's first run begins at its first pixel, the others at changes. The end of the last mask is the last entry.
    begins = torch.empty(len(changes) + N + 1, dtype=torch.int64, device=masks.device)
    begins[offsets] = each
    begins[torch.arange(len(changes), device=masks.device) + mask_of_change + 1] = changes
    return RunLengths(begins.diff().to(torch.int32), offsets, (H, W))


def encode_upsampled_reference(
    logits: Tensor, size: tuple[int, int], threshold: float, placement: Placement
) -> RunLengths:
    """Reference implementation of :func:`encode_upsampled`: a few masks at a time at full size."""
    (H, W), (y, x) = size, placement.origin
    parts = [encode_masks_reference(logits.new_zeros(0, *placement.canvas, dtype=torch.bool))]
    for chunk in logits.split(max(1, CHUNK // max(1, H * W))):
        canvas = logits.new_zeros(len(chunk), *placement.canvas, dtype=torch.bool)
        canvas[:, y : y + H, x : x + W] = upsample_and_threshold_reference(chunk, size, threshold)
        parts.append(encode_masks_reference(canvas))
    return concatenate(parts)


def concatenate(parts: list[RunLengths]) -> RunLengths:
    """The masks of all parts, which have one size, in order."""
    ends = torch.cat([part.offsets.diff() for part in parts]).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends])
    return RunLengths(torch.cat([part.counts for part in parts]), offsets, parts[0].size)


def decode_masks_reference(runs: RunLengths) -> Tensor:
    """Reference implementation of :func:`decode_masks`: repeats each run's value for its pixels."""
    H, W = runs.size
    N = len(runs.offsets) - 1
    pixels = torch.repeat_interleave(_is_foreground(runs), runs.counts, output_size=N * H * W)
    return pixels.view(N, W, H).transpose(1, 2).contiguous()


def run_length_areas_reference(runs: RunLengths) -> Tensor:
    """Reference implementation of :func:`run_length_areas`: a cumulative sum over the foreground's runs."""
    total = torch.where(_is_foreground(runs), runs.counts, 0).cumsum(0, dtype=torch.int64)
    total = torch.cat([total.new_zeros(1), total])
    return total[runs.offsets].diff()


def _is_foreground(runs: RunLengths) -> Tensor:
    """Whether each run is foreground: every second run of its mask."""
    first = torch.repeat_interleave(runs.offsets[:-1], runs.offsets.diff(), output_size=len(runs.counts))
    return (torch.arange(len(runs.counts), device=runs.counts.device) - first) % 2 == 1
