"""Many masks of one image in one picture: of ids, and in colour."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from sam2fast.cli.errors import UserError
from sam2fast.io.overlay import OUTLINE_COLOUR, TINT
from sam2fast.io.rle import decode_rle
from sam2fast.video_results.drawing import HUE_STEP

PALETTE_IDS = 255  # more need 16 bits
MOST_IDS = 65535
SHADES = ((0.9, 0.95), (0.55, 1.0), (0.95, 0.7))  # saturation, value; ids take turns


def paint_layers(segmentations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Ids ``(H, W)`` uint16: a pixel has the position, from 1, of the last mask that it is in; 0 in none.

    Args:
        segmentations: compressed run lengths, the largest mask first, so that it hides none.

    Raises:
        UserError: more masks than 16 bits can number.
    """
    if len(segmentations) > MOST_IDS:
        raise UserError(
            f"{len(segmentations)} masks, but a picture has room for {MOST_IDS} ids; ask for --format json, or for "
            "fewer masks"
        )
    # Run lengths go down the columns, and so do pixels in memory here.
    ids = np.zeros((height, width), dtype=np.uint16, order="F")
    for number, segmentation in enumerate(segmentations, 1):
        np.copyto(ids, np.uint16(number), where=decode_rle(segmentation))
    return np.ascontiguousarray(ids)


def layers_picture(ids: np.ndarray, count: int) -> Image.Image:
    """Ids ``(H, W)`` as a picture whose pixels are the ids: a palette picture for up to 255 masks, else 16-bit grey.

    Args:
        count: of the masks, which may be more than are to be seen.
    """
    if count > PALETTE_IDS:
        return Image.fromarray(ids.astype(np.uint16))
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette(id_colours(PALETTE_IDS).tobytes())
    return picture


def draw_layers(image: np.ndarray, ids: np.ndarray) -> Image.Image:
    """An image ``(H, W, 3)`` uint8 with each id's pixels in ``(H, W)`` tinted, and outlined where ids change.

    The colours are those of :func:`layers_picture`. The time does not depend on how many masks there are.
    """
    colours = id_colours(int(ids.max(initial=0)))
    share = np.where(ids[..., None] > 0, np.float32(TINT), np.float32(0))
    tinted = np.rint(image * (1 - share) + colours[ids] * share).astype(np.uint8)
    picture = Image.fromarray(tinted)
    edges = np.zeros(ids.shape, dtype=bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    width = max(image.shape[:2]) // 1000
    outline = Image.fromarray(edges.astype(np.uint8) * 255)
    if width:
        outline = outline.filter(ImageFilter.MaxFilter(2 * width + 1)).filter(ImageFilter.BoxBlur(width / 2))
    picture.paste(OUTLINE_COLOUR, mask=outline)
    return picture


def id_colours(count: int) -> np.ndarray:
    """Colours ``(count + 1, 3)`` uint8 of the ids from 0, which is black."""
    colours = [(0.0, 0.0, 0.0)]
    for number in range(count):
        saturation, value = SHADES[number % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(number * HUE_STEP % 1, saturation, value))
    return np.rint(np.array(colours) * 255).astype(np.uint8)
