"""Masks of one frame as run lengths."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import suppress_overlaps, upsample_and_threshold, upsample_masks
from sam2fast.kernels.run_lengths import encode_masks, encode_upsampled
from sam2fast.rle import RLE, compress_run_lengths


class ObjectMask(NamedTuple):
    """One object on one frame.

    Attributes:
        rle: its mask.
        visible: the part of it where the object has the greatest logit of all, so that these never overlap.
    """

    rle: RLE
    visible: RLE


@torch.inference_mode()
def encode_frame(ids: Sequence[int], logits: Tensor, size: tuple[int, int]) -> dict[int, ObjectMask]:
    """Masks of all objects, by id.

    Args:
        logits: ``(N, 1, h, w)``, at the model's or the video's resolution.
        size: (H, W) of the video.
    """
    if not len(ids):
        return {}
    masks = compress_run_lengths(encode_upsampled(logits[:, 0], size))
    visible = masks
    if len(ids) > 1 and bool((upsample_and_threshold(logits, size).sum(0) > 1).any()):
        visible = compress_run_lengths(encode_masks(suppress_overlaps(upsample_masks(logits, size))[:, 0] > 0))
    return {i: ObjectMask(*pair) for i, pair in zip(ids, zip(masks, visible, strict=True), strict=True)}
