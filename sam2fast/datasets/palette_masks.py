"""Converts masks to palette images, the format of video object segmentation data sets, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.dataset_files import DatasetError, Labels, OverlapError
from sam2fast.io.images import open_image
from sam2fast.io.png import encode_png
from sam2fast.io.rle import RLE, decode_rle, encode_rle

COLOURS = 256
MOST_OBJECTS = COLOURS - 1
# Which of overlapping objects a pixel gets.
REFUSE, SMALLER_ID, LARGER_AREA = OVERLAPS = ("refuse", "smaller-id", "larger-area")


def palette() -> NDArray[np.uint8]:
    """The DAVIS palette ``(256, 3)``: bits 3k, 3k + 1, 3k + 2 of an id are bit 7 - k of its red, green and blue."""
    ids = np.arange(COLOURS)
    colours = np.zeros((COLOURS, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def label_png(labels: NDArray[np.uint8], colours: bytes | None = None) -> bytes:
    """Returns a PNG file of labels ``(H, W)`` uint8, 0 for none, with a palette of RGB bytes, by default DAVIS's.

    Raises ValueError for another shape or dtype, or an invalid palette.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8 (H, W), got {labels.dtype} {labels.shape}")
    if colours is not None and (len(colours) % 3 or len(colours) > 3 * COLOURS):
        raise ValueError(f"a palette has at most {COLOURS} colours of 3 bytes, got {len(colours)} bytes")
    table = np.frombuffer(colours, dtype=np.uint8).reshape(-1, 3) if colours else palette()
    return encode_png(labels, table)


def palette_of(path: Path) -> bytes | None:
    """The RGB bytes of an image's palette, for :func:`label_png`; None for an image without a palette."""
    with open_image(path) as image:
        colours = image.getpalette("RGB") if image.mode == "P" else None
        return None if colours is None else bytes(colours)


def extended(colours: bytes, count: int = COLOURS) -> bytes:
    """Extends a palette to at least ``count`` colours by DAVIS's: every stored index needs a colour."""
    return colours + palette().tobytes()[len(colours) : 3 * count]


def indices_of(objects: Sequence[int], name: str) -> dict[int, int]:
    """The palette index of each of at most 255 objects: its id, or, if any id exceeds 255, its position from 1."""
    if len(objects) > MOST_OBJECTS:
        raise DatasetError(
            f"{name} has {len(objects)} objects, a palette image has room for {MOST_OBJECTS}; "
            "the layout sav-png has no such limit"
        )
    if all(1 <= number <= MOST_OBJECTS for number in objects):
        return {number: number for number in objects}
    return {number: index for index, number in enumerate(objects, 1)}


def paint(
    masks: Masks, size: tuple[int, int], indices: Mapping[int, int], overlaps: str, where: str
) -> tuple[NDArray[np.uint8], list[int]]:
    """Returns palette indices ``(H, W)`` uint8, and the objects that lost pixels to others, of masks of ``size``.

    A pixel of several objects gets the smaller id, or that of the larger area, as ``overlaps`` says. Of equal areas
    the smaller id gets it. If ``overlaps`` is ``refuse``, raises OverlapError, which names the objects.
    """
    pixels = {number: decode_rle(rle) for number, rle in masks.items()}
    labels, taken, losers = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=bool), []
    area = {number: -int(mask.sum()) if overlaps == LARGER_AREA else 0 for number, mask in pixels.items()}
    for number in sorted(pixels, key=lambda number: (area[number], number)):
        mask = pixels[number]
        hidden = mask & taken
        if hidden.any():
            losers.append(number)
            mask &= ~taken
        labels[mask] = indices[number]
        taken |= mask
    if losers and overlaps == REFUSE:
        lost = decode_rle(masks[losers[0]])
        overlapping = sorted(number for number, rle in masks.items() if (decode_rle(rle) & lost).any())
        raise OverlapError(
            f"{where}: objects {', '.join(map(str, overlapping))} overlap, and a palette image has one object at "
            f"each pixel; choose --overlaps {SMALLER_ID} or {LARGER_AREA}, which loses pixels, or a layout that keeps "
            "them (sav, sav-png, coco-jsonl)"
        )
    return labels, sorted(losers)


def masks_in(labels: Labels, indices: Mapping[int, int]) -> dict[int, RLE]:
    """Run lengths of these objects; empty for those that the image does not show."""
    return {number: encode_rle(labels == index) for number, index in indices.items()}
