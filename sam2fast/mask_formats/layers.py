"""All masks of an image as one image of ids, and drawn on the image; by strips of rows, in threads."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from sam2fast.io.overlay import OUTLINE_COLOUR
from sam2fast.io.png import encode_png, encode_rows
from sam2fast.io.rle import read_run_lengths
from sam2fast.video_results.drawing import HUE_STEP

PALETTE_IDS = 255  # more need 16 bits
MAX_IDS = 65535
COLUMNS = 256  # copied together, so that they stay in the processor's cache
SHADES = ((0.9, 0.95), (0.55, 1.0), (0.95, 0.7))  # saturation, value; ids cycle through them


def paint_labels(
    segmentations: Sequence[Mapping[str, Any]], height: int, width: int, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """Ids ``(H, W)``: the number, by default the position from 1, of the last mask that has the pixel; 0 for none.

    uint8 for up to 255 masks, else uint16. The largest mask comes first, so that no mask is hidden.
    """
    if len(segmentations) > MAX_IDS:
        raise ValueError(
            f"{len(segmentations)} masks, but an image holds at most {MAX_IDS} ids; write them as coco or npz, "
            "or write fewer"
        )
    ids = np.zeros(height * width, dtype=np.uint8 if len(segmentations) <= PALETTE_IDS else np.uint16)
    for number, segmentation in zip(numbers or range(1, len(segmentations) + 1), segmentations, strict=True):
        ends = read_run_lengths([segmentation]).counts.numpy().cumsum(dtype=np.int64).tolist()
        for begin, end in zip(ends[0::2], ends[1::2], strict=False):
            ids[begin:end] = number
    return row_major(ids.reshape(width, height).T)


def row_major(pixels: np.ndarray) -> np.ndarray:
    """A row-major copy of ``pixels (H, W)``; several times as fast as NumPy's if they are column-major and large."""
    rows = np.empty(pixels.shape, dtype=pixels.dtype)
    for first in range(0, pixels.shape[1], COLUMNS):
        rows[:, first : first + COLUMNS] = pixels[:, first : first + COLUMNS]
    return rows


def label_png(ids: np.ndarray) -> bytes:
    """Ids ``(H, W)`` as a PNG file: uint8 with a palette, uint16 as 16-bit grey."""
    return encode_png(ids, id_colours(PALETTE_IDS) if ids.dtype == np.uint8 else None)


def layers_png(image: np.ndarray, ids: np.ndarray) -> bytes:
    """A PNG file of ``(H, W, 3)`` uint8 with ids ``(H, W)`` tinted and outlined, made strip by strip."""
    width = max(image.shape[:2]) // 1000
    colours, margin = id_colours(int(ids.max(initial=0))), 2 * width

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = max(start - margin - 1, 0), min(stop + margin + 1, len(ids))
        drawn = _draw(image[first:last], ids[first:last], colours, width)
        return drawn[start - first : stop - first]

    return encode_rows(rows, image.shape, image.dtype)


def id_colours(count: int) -> np.ndarray:
    """Colours ``(count + 1, 3)`` uint8 of the ids from 0, which is black."""
    colours = [(0.0, 0.0, 0.0)]
    for number in range(count):
        saturation, value = SHADES[number % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(number * HUE_STEP % 1, saturation, value))
    return np.rint(np.array(colours) * 255).astype(np.uint8)


def _draw(image: np.ndarray, ids: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    # Entries of four bytes, and pixels of three, are copied at once.
    halves = np.pad(colours >> 1, ((0, 0), (0, 1))).view(np.uint32)[:, 0]
    tints = halves[ids].view(np.uint8).reshape(*ids.shape, 4)[..., :3]
    drawn = np.array(image, order="C")
    np.copyto(drawn.view("V3")[..., 0], ((drawn >> 1) + tints).view("V3")[..., 0], where=ids > 0)
    edges = np.zeros(ids.shape, dtype=np.uint8)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    if not edges.any():
        return drawn
    canvas = Image.fromarray(drawn)
    canvas.paste(OUTLINE_COLOUR, mask=_widened(Image.fromarray(edges * np.uint8(255)), width))
    return np.asarray(canvas)


def _widened(edges: Image.Image, width: int) -> Image.Image:
    """Lines of 255 on 0 that are ``width`` pixels wider to each side, and soft."""
    if width == 0:
        return edges
    # What a box blur leaves above 0 is what a maximum filter finds, in time that does not depend on the width.
    for radius in ((width, 0), (0, width)):
        edges = edges.filter(ImageFilter.BoxBlur(radius)).point(lambda value: 255 * (value > 0))
    return edges.filter(ImageFilter.BoxBlur(width / 2))
