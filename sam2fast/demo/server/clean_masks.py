"""Masks without specks and small holes."""

from collections.abc import Mapping

from sam2fast.amg import remove_small_regions
from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.jobs import Report
from sam2fast.demo.server.source_masks import FrameMaskTable
from sam2fast.io.rle import RLE, decode_rle, encode_rle


def clean_masks(masks: FrameMaskTable, limits: Mapping[int, float], report: Report) -> FrameMaskTable:
    """Fills small holes of masks and removes their small parts.

    Args:
        limits: Area limits by object, as shares of the frame's area, 0 to 1. Other objects keep their masks.
        report: Receives the share of the frames that is done.
    """
    cleaned: dict[int, Mapping[int, ObjectMask]] = {}
    for done, (frame, entries) in enumerate(masks.items()):
        report(done / len(masks))
        cleaned[frame] = {i: _clean_object(mask, limits.get(i, 0)) for i, mask in entries.items()}
    return cleaned


def clean_rle(rle: RLE, area: int) -> RLE:
    """Fills holes of fewer pixels than ``area``, then removes such parts. The largest part always stays."""
    filled, _ = remove_small_regions(decode_rle(rle), area, "holes")
    return encode_rle(remove_small_regions(filled, area, "islands")[0])


def _clean_object(mask: ObjectMask, limit: float) -> ObjectMask:
    if not limit:
        return mask
    height, width = mask.rle["size"]
    rle = clean_rle(mask.rle, int(limit * height * width + 0.5))  # as the page rounds
    return ObjectMask(rle, rle, mask.scores)
