"""Masks of one frame as run lengths."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.io.rle import RLE, compress_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled
from sam2fast.video_results.overlaps import visible_parts


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
    runs = encode_upsampled(logits[:, 0], size)
    seen = visible_parts(logits, runs)
    masks = compress_run_lengths(runs)
    visible = masks if seen is None else compress_run_lengths(seen)
    return {i: ObjectMask(*pair) for i, pair in zip(ids, zip(masks, visible, strict=True), strict=True)}
