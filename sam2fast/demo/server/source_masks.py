"""Masks at another size than the one at which a page has seen them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.jobs import Report
from sam2fast.io.rle import RLE, compress_run_lengths, decode_rle, encode_rle
from sam2fast.kernels.run_lengths import encode_upsampled

# For each frame and object, low-resolution logits (1, h, w) that its mask may have been made of.
Logits = Mapping[int, Mapping[int, Sequence[Tensor]]]
# For each frame and object, the logits of its mask; those of other masks are not known.
MatchedLogits = Mapping[int, Mapping[int, Tensor]]
FrameMaskTable = Mapping[int, Mapping[int, ObjectMask]]


@torch.inference_mode()
def resize_masks(masks: FrameMaskTable, logits: Logits, size: tuple[int, int], report: Report) -> FrameMaskTable:
    """The same masks at another size.

    A mask that the model has made is upsampled from its logits, as the predictor does for the size of its video.
    Others, such as those of the brush, are resized themselves.

    Args:
        size: (H, W).
        report: receives the share of the frames that is done.
    """
    resized: dict[int, dict[int, ObjectMask]] = {}
    for done, (frame, entries) in enumerate(masks.items()):
        report(done / len(masks))
        found = logits.get(frame, {})
        resized[frame] = {i: _resize_object(mask, found.get(i, ()), size) for i, mask in entries.items()}
    return resized


@torch.inference_mode()
def match_logits(masks: FrameMaskTable, logits: Logits, report: Report) -> MatchedLogits:
    """The logits of the masks that the model has made. ``report`` receives the share of the frames that is done."""
    matched: dict[int, dict[int, Tensor]] = {}
    for done, (frame, entries) in enumerate(masks.items()):
        report(done / len(masks))
        for i, mask in entries.items():
            found = _logits_of(mask, logits.get(frame, {}).get(i, ()))
            if found is not None:
                matched.setdefault(frame, {})[i] = found
    return matched


def _logits_of(mask: ObjectMask, logits: Sequence[Tensor]) -> Tensor | None:
    """The logits that a mask was made of; None for one that the model has not made."""
    height, width = mask.rle["size"]
    return next((candidate for candidate in logits if _upsampled(candidate, (height, width)) == mask.rle), None)


def _resize_object(mask: ObjectMask, logits: Sequence[Tensor], size: tuple[int, int]) -> ObjectMask:
    found = _logits_of(mask, logits)
    rle = _resized(mask.rle, size) if found is None else _upsampled(found, size)
    if mask.visible == mask.rle:
        return ObjectMask(rle, rle, mask.scores)
    visible = decode_rle(_resized(mask.visible, size)) & decode_rle(rle)
    return ObjectMask(rle, encode_rle(visible), mask.scores)


def _upsampled(logits: Tensor, size: tuple[int, int]) -> RLE:
    return compress_run_lengths(encode_upsampled(logits, size))[0]


def _resized(rle: RLE, size: tuple[int, int]) -> RLE:
    signs = torch.from_numpy(decode_rle(rle))[None].float() * 2 - 1
    return _upsampled(signs, size)
