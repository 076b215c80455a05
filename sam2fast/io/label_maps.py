"""Creates label maps (images of object ids), palettes, and PNG files of label maps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.images import open_image
from sam2fast.io.png import encode_png
from sam2fast.io.rle import read_run_lengths

COLOURS = 256  # maximum colours of a palette
MOST_LABELS = 65535  # maximum id in a PNG file with 16 bits
COLUMNS = 256  # number of columns copied at once; these columns fit the processor's cache


def paint_labels(
    segmentations: Sequence[Mapping[str, Any]], height: int, width: int, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """Returns a label map ``(H, W)``: for each pixel, the id of the last mask that contains the pixel, or 0.

    The dtype is uint8, or uint16 if an id is greater than 255. To keep all masks visible, sort masks by area, largest
    first.

    Args:
        segmentations: Run lengths of the masks.
        numbers: Ids of the masks. By default, 1 to the number of masks.
    """
    if len(segmentations) > MOST_LABELS:
        raise ValueError(
            f"{len(segmentations)} masks, but an image has at most {MOST_LABELS} ids; write them as coco or npz, "
            "or write fewer masks"
        )
    numbers = range(1, len(segmentations) + 1) if numbers is None else numbers
    ids = np.zeros(height * width, dtype=label_dtype(numbers))
    for number, segmentation in zip(numbers, segmentations, strict=True):
        ends = read_run_lengths([segmentation]).counts.numpy().cumsum(dtype=np.int64).tolist()
        for begin, end in zip(ends[0::2], ends[1::2], strict=False):
            ids[begin:end] = number
    return row_major(ids.reshape(width, height).T)


def label_dtype(numbers: Iterable[int]) -> type[np.integer[Any]]:
    """Returns the smallest dtype of labels with these numbers: uint8 or uint16."""
    return np.uint8 if max(numbers, default=0) <= np.iinfo(np.uint8).max else np.uint16


def stack_masks(
    masks: Iterable[tuple[int, NDArray[np.bool_]]], size: tuple[int, int], dtype: type[np.integer[Any]] = np.uint8
) -> NDArray[Any]:
    """Returns labels ``(H, W)`` from pairs of an id and a bool mask. Later masks cover earlier masks."""
    labels = np.zeros(size, dtype)
    for number, mask in masks:
        np.copyto(labels, dtype(number), where=mask)
    return labels


def row_major(pixels: np.ndarray) -> np.ndarray:
    """Returns a row-major copy of ``pixels (H, W)``. For large column-major arrays, several times faster than NumPy."""
    rows = np.empty(pixels.shape, dtype=pixels.dtype)
    for first in range(0, pixels.shape[1], COLUMNS):
        rows[:, first : first + COLUMNS] = pixels[:, first : first + COLUMNS]
    return rows


def label_png(labels: np.ndarray, colours: bytes | None = None) -> bytes:
    """Returns a PNG file of labels ``(H, W)``. Label 0 is the background.

    Args:
        labels: Labels in uint8 or uint16. uint8 is written with a palette, and uint16 as 16-bit grey.
        colours: RGB bytes of the palette. Defaults to the palette of DAVIS.

    Raises:
        ValueError: If the palette is invalid.
    """
    if labels.dtype != np.uint8:
        return encode_png(labels)
    if colours is not None and (len(colours) % 3 or len(colours) > 3 * COLOURS):
        raise ValueError(f"a palette has at most {COLOURS} colours of 3 bytes, got {len(colours)} bytes")
    return encode_png(labels, np.frombuffer(colours, dtype=np.uint8).reshape(-1, 3) if colours else palette())


def palette() -> NDArray[np.uint8]:
    """Returns the palette of DAVIS, ``(256, 3)``.

    Bits 3k, 3k + 1 and 3k + 2 of an id determine bit 7 - k of red, green and blue, respectively.
    """
    ids = np.arange(COLOURS)
    colours = np.zeros((COLOURS, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def palette_of(path: Path) -> bytes | None:
    """Returns the RGB bytes of an image's palette for :func:`label_png`, or None for images without a palette."""
    with open_image(path) as image:
        colours = image.getpalette("RGB") if image.mode == "P" else None
        return None if colours is None else bytes(colours)


def extended(colours: bytes, count: int = COLOURS) -> bytes:
    """Extends a palette to at least ``count`` colours with DAVIS colours, since all indices need colours."""
    return colours + palette().tobytes()[len(colours) : 3 * count]
