"""Draws masks on frames, fast enough for videos."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from sam2fast.io.overlay import COLOURS, Area, Colour, area_of
from sam2fast.video_results.frame_masks import mask_array, object_number

# Distance of consecutive hues (golden ratio), so that consecutive ids have distinct colours.
HUE_STEP = (5**0.5 - 1) / 2
SATURATION, VALUE = 0.85, 0.95
PADDING = 3  # around an object's id, pixels
LINE_SHARE = 900  # longer side of the image divided by the width of outlines


def draw_masks(
    rgb: NDArray[np.uint8], masks: Any, ids: Sequence[Any] | None = None, colours: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """The image with half-transparent, outlined masks, ``(H, W, 3)`` uint8; later masks cover earlier ones.

    Args:
        rgb: ``(H, W, 3)`` uint8; not modified.
        masks: ``(N, H, W)`` or ``(N, 1, H, W)``, bool or logits, array or tensor.
        ids: of the N objects, by default 0, 1, ...; an id has the same colour in every image.
        colours: of the N objects; by default those of :func:`colour_of`.

    Raises:
        ValueError: shapes, dtypes or numbers of elements do not fit.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB uint8 image (H, W, 3), got {rgb.dtype} {rgb.shape}")
    names = range(len(masks)) if ids is None else ids
    pixels = mask_array(masks, len(names))
    if len(pixels) and pixels.shape[1:] != rgb.shape[:2]:
        raise ValueError(f"expected masks of the image's size {rgb.shape[:2]}, got {pixels.shape[1:]}")
    tints = [colour_of(name) for name in names] if colours is None else list(colours)
    if len(tints) != len(pixels):
        raise ValueError(f"{len(tints)} colours for {len(pixels)} masks")
    image = np.array(rgb, order="C")
    hidden = np.zeros(rgb.shape[:2], dtype=bool)
    for mask, colour in reversed(list(zip(pixels, tints, strict=True))):
        area = area_of(mask)
        if area is not None:
            tint(image, area, mask[area] & ~hidden[area], colour)
            hidden[area] |= mask[area]
    return image


def draw_id(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], height: int, colour: Colour) -> None:
    """Draws an object's id on its colour, above the upper left ``corner`` (x, y) of its mask."""
    font = ImageFont.load_default(height)
    place = (corner[0] + PADDING, max(corner[1] - height - 2 * PADDING, PADDING))
    left, top, right, bottom = draw.textbbox(place, text, font)
    draw.rectangle((left - PADDING, top - PADDING, right + PADDING, bottom + PADDING), fill=colour)
    draw.text(place, text, (0, 0, 0), font)


def colour_of(obj_id: Any) -> Colour:
    """The RGB colour of an id, the same in every image; 0 to 4 have the colours that are easiest to distinguish."""
    number = object_number(obj_id)
    if 0 <= number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1, SATURATION, VALUE)
    return round(255 * red), round(255 * green), round(255 * blue)


def tint(image: NDArray[np.uint8], area: Area, mask: NDArray[np.bool_], colour: Colour) -> None:
    """Tints and outlines one object in place.

    The image is ``(H, W, 3)`` uint8, contiguous. The bool mask has the size of ``area``.
    """
    rows, columns = area
    height, width = image.shape[:2]
    # Rows of bytes rather than of pixels, so that NumPy can vectorise.
    half = image.reshape(height, 3 * width)[rows, 3 * columns.start : 3 * columns.stop] >> 1
    half += np.tile(np.array(colour, dtype=np.uint8) >> 1, columns.stop - columns.start)
    pixels = image.view("V3")[..., 0][area]
    np.copyto(pixels, half.view("V3"), where=mask)
    edge = _inner_edge(mask, max(1, round(max(height, width) / LINE_SHARE)))
    pixels[edge] = np.array(colour, dtype=np.uint8).view("V3")


def _inner_edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The pixels of a mask within ``thickness`` of its edge along rows or columns."""
    padded = np.pad(mask, thickness)
    height, width = mask.shape
    inner = mask.copy()
    for step in (-thickness, thickness):
        inner &= padded[thickness + step : thickness + step + height, thickness : thickness + width]
        inner &= padded[thickness : thickness + height, thickness + step : thickness + step + width]
    return np.logical_xor(mask, inner, out=inner)
