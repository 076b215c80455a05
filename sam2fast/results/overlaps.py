"""Computes the visible parts of overlapping masks in one frame."""

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import suppress_overlaps, upsample_masks
from sam2fast.kernels.run_lengths import RunLengths, decode_masks, encode_masks


def visible_parts(masks: Tensor, runs: RunLengths) -> RunLengths | None:
    """Returns the part of each mask with the greatest logit of all objects, or None if no masks overlap.

    If no boxes overlap, returns early. Otherwise computes only the pixels that several masks share.

    Args:
        masks: Logits ``(N, 1, h, w)``, at the model's or the video's resolution.
        runs: Run lengths of the N masks, at the video's resolution.
    """
    boxes = [box for box in boxes_of(runs) if box is not None]
    if not any(
        ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah
        for i, (ax, ay, aw, ah) in enumerate(boxes)
        for bx, by, bw, bh in boxes[:i]
    ):
        return None
    pixels = decode_masks(runs)
    covered, shared = torch.zeros_like(pixels[0]), torch.zeros_like(pixels[0])
    for mask in pixels:
        shared |= covered & mask
        covered |= mask
    where = shared.flatten().nonzero()[:, 0]
    if not len(where):
        return None
    logits = upsample_masks(masks, runs.size).flatten(1)[:, where]
    pixels.flatten(1)[:, where] = suppress_overlaps(logits[:, None, None])[:, 0, 0] > 0
    return encode_masks(pixels)


def boxes_of(runs: RunLengths) -> list[list[int] | None]:
    """Returns the COCO box [x, y, width, height] of each mask, None for an empty mask."""
    counts, offsets = runs.counts.cpu().numpy(), runs.offsets.tolist()
    height = runs.size[0]
    boxes: list[list[int] | None] = []
    for first, last in zip(offsets[:-1], offsets[1:], strict=True):
        edges = np.cumsum(counts[first:last], dtype=np.int64)
        begins, ends = edges[0::2][: len(edges) // 2], edges[1::2] - 1  # first and last pixel of each foreground run
        if not len(begins):
            boxes.append(None)
            continue
        columns, last_columns = begins // height, ends // height
        if (columns != last_columns).any():  # a run has the last row of a column and the first row of the next column
            top, bottom = 0, height - 1
        else:
            top, bottom = int((begins % height).min()), int((ends % height).max())
        x = int(columns[0])
        boxes.append([x, top, int(last_columns[-1]) - x + 1, bottom - top + 1])
    return boxes
