"""Masks as palette images, as data sets of video object segmentation have them, and back."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.errors import DatasetError, OverlapError
from sam2fast.datasets.files import Labels
from sam2fast.io.images import open_picture
from sam2fast.io.rle import RLE, decode_rle, encode_rle

COLOURS = 256
MOST_OBJECTS = COLOURS - 1
# Which object a pixel shows that several have.
REFUSE, SMALLER_ID, LARGER_AREA = OVERLAPS = ("refuse", "smaller-id", "larger-area")


def palette() -> NDArray[np.uint8]:
    """DAVIS's colours ``(256, 3)`` of ids: an id's bits, three at a time, are bits of red, green and blue."""
    ids = np.arange(COLOURS)
    colours = np.zeros((COLOURS, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def label_png(labels: NDArray[np.uint8], colours: bytes | None = None, compress_level: int = 6) -> bytes:
    """A palette image as the content of a PNG file.

    Args:
        labels: ``(H, W)``, the id of each pixel's object, 0 for none; or one object as 0 and 1.
        colours: of the ids, at most 256 times red, green and blue; DAVIS's by default.

    Raises:
        ValueError: labels of another shape or type, or colours that are no palette.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8 (H, W), got {labels.dtype} {labels.shape}")
    if colours is not None and (len(colours) % 3 or len(colours) > 3 * COLOURS):
        raise ValueError(f"a palette has at most {COLOURS} colours of 3 bytes, got {len(colours)} bytes")
    image = Image.fromarray(labels)
    image.putpalette(palette().tobytes() if colours is None else colours)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def palette_of(path: Path) -> bytes | None:
    """The colours of a palette image that can be read, for :func:`label_png`; None if it is of another kind."""
    with open_picture(path) as image:
        colours = image.getpalette("RGB") if image.mode == "P" else None
        return None if colours is None else bytes(colours)


def extended(colours: bytes, count: int = COLOURS) -> bytes:
    """A palette with at least ``count`` colours, the others DAVIS's: an index without a colour cannot be stored."""
    return colours + palette().tobytes()[len(colours) : 3 * count]


def label_map(masks: Mapping[int, NDArray[np.uint8]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The id of each pixel's object ``(H, W)``, 0 for none; where masks overlap, the smaller id.

    Args:
        masks: of 0 and 1, ``(H, W)``, by id from 1 to 255.
    """
    labels = np.zeros(size, dtype=np.uint8)
    for obj_id in sorted(masks, reverse=True):
        np.copyto(labels, np.uint8(obj_id), where=masks[obj_id].view(np.bool_))
    return labels


def indices_of(objects: Sequence[int], name: str) -> dict[int, int]:
    """The palette index of each object: its id, or, where an id is above 255, its position from 1.

    Raises:
        DatasetError: more objects than a palette has room for.
    """
    if len(objects) > MOST_OBJECTS:
        raise DatasetError(
            f"{name} has {len(objects)} objects, a palette picture has room for {MOST_OBJECTS}; "
            "the layout sav-png has no such limit"
        )
    if all(1 <= number <= MOST_OBJECTS for number in objects):
        return {number: number for number in objects}
    return {number: index for index, number in enumerate(objects, 1)}


def paint(
    masks: Masks, size: tuple[int, int], indices: Mapping[int, int], overlaps: str, where: str
) -> tuple[NDArray[np.uint8], list[int]]:
    """A picture ``(H, W)`` of palette indices, and which objects lost pixels to others.

    Args:
        overlaps: ``smaller-id`` or ``larger-area`` gives a pixel of several objects to one of them, of equally large
            ones to the smaller id; ``refuse`` raises.
        masks: of ``size``, as :meth:`VideoAnnotations.masks` gives them.
        where: names the frame.

    Raises:
        OverlapError: masks overlap, and that is refused; names the objects.
    """
    pixels = {number: decode_rle(rle) for number, rle in masks.items()}
    labels, taken, losers = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=bool), []
    for number in _by_rank(pixels, overlaps):
        mask = pixels[number]
        hidden = mask & taken
        if hidden.any():
            losers.append(number)
            mask &= ~taken
        labels[mask] = indices[number]
        taken |= mask
    if losers and overlaps == REFUSE:
        overlapping = _overlapping(masks, losers[0])
        raise OverlapError(
            f"{where}: objects {', '.join(map(str, overlapping))} overlap, and a palette picture has one object at "
            f"each pixel; choose --overlaps {SMALLER_ID} or {LARGER_AREA}, which loses pixels, or a layout that keeps "
            "them (sav, sav-png, coco-jsonl)"
        )
    return labels, sorted(losers)


def _by_rank(pixels: Mapping[int, NDArray[np.bool_]], overlaps: str) -> list[int]:
    if overlaps != LARGER_AREA:
        return sorted(pixels)
    return sorted(pixels, key=lambda number: (-int(pixels[number].sum()), number))


def _overlapping(masks: Masks, loser: int) -> list[int]:
    """An object and those that lie on it."""
    mask = decode_rle(masks[loser])
    return sorted([loser, *(n for n, rle in masks.items() if n != loser and (decode_rle(rle) & mask).any())])


def masks_in(labels: Labels, indices: Mapping[int, int]) -> dict[int, RLE]:
    """Run lengths of these objects, without a pixel for those that the picture does not show."""
    return {number: encode_rle(labels == index) for number, index in indices.items()}
