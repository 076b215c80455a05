"""Masks on top of frames, quickly: films have many."""

import colorsys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.overlay import COLOURS, Colour
from sam2fast.video_results.frames import mask_array, object_number

Area: TypeAlias = tuple[slice, slice]  # rows and columns of a picture

# Consecutive hues are this share of a turn apart, so that any few ids in a row have colours far from one another.
HUE_STEP = (5**0.5 - 1) / 2
SATURATION, VALUE = 0.85, 0.95
LINE_SHARE = 900  # outlines are as many pixels wide as the picture's longer side has so many


def draw_masks(
    rgb: NDArray[np.uint8], masks: Any, ids: Sequence[Any] | None = None, colours: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """The picture with masks tinted half and outlined, ``(H, W, 3)`` uint8; of two masks the later lies above.

    Args:
        rgb: ``(H, W, 3)`` uint8; it is not changed.
        masks: ``(N, H, W)`` or ``(N, 1, H, W)``, bool or logits, array or tensor.
        ids: of the N objects; an id has the same colour in every picture. By default 0, 1, ...
        colours: of the N objects; by default those of :func:`colour_of`.

    Raises:
        ValueError: shapes, dtypes or numbers that do not fit.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB uint8 picture (H, W, 3), got {rgb.dtype} {rgb.shape}")
    names = range(len(masks)) if ids is None else ids
    pixels = mask_array(masks, len(names))
    if len(pixels) and pixels.shape[1:] != rgb.shape[:2]:
        raise ValueError(f"expected masks of the picture's size {rgb.shape[:2]}, got {pixels.shape[1:]}")
    tints = [colour_of(name) for name in names] if colours is None else list(colours)
    if len(tints) != len(pixels):
        raise ValueError(f"{len(tints)} colours for {len(pixels)} masks")
    picture = np.array(rgb, order="C")
    hidden = np.zeros(rgb.shape[:2], dtype=bool)
    for mask, colour in reversed(list(zip(pixels, tints, strict=True))):
        area = area_of(mask)
        if area is not None:
            tint(picture, area, mask[area] & ~hidden[area], colour)
            hidden[area] |= mask[area]
    return picture


def colour_of(obj_id: Any) -> Colour:
    """The colour of an id, the same in every picture; the first five integers have those told apart most easily."""
    number = object_number(obj_id)
    if 0 <= number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1, SATURATION, VALUE)
    return round(255 * red), round(255 * green), round(255 * blue)


def area_of(mask: NDArray[np.bool_]) -> Area | None:
    """The smallest rectangle of ``mask (H, W)`` that holds its pixels; none if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def tint(picture: NDArray[np.uint8], area: Area, mask: NDArray[np.bool_], colour: Colour) -> None:
    """Tints and outlines one object in place.

    Args:
        picture: ``(H, W, 3)`` uint8, contiguous.
        area: a rectangle of it.
        mask: which of the rectangle's pixels show the object.
    """
    rows, columns = area
    height, width = picture.shape[:2]
    # Rows of bytes rather than of pixels: only those are long enough to be computed many at a time.
    half = picture.reshape(height, 3 * width)[rows, 3 * columns.start : 3 * columns.stop] >> 1
    half += np.tile(np.array(colour, dtype=np.uint8) >> 1, columns.stop - columns.start)
    whole = picture.view("V3")[..., 0][area]
    np.copyto(whole, half.view("V3"), where=mask)
    edge = _inner_edge(mask, max(1, round(max(height, width) / LINE_SHARE)))
    whole[edge] = np.array(colour, dtype=np.uint8).view("V3")


def _inner_edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Pixels of a mask that are within ``thickness`` of its edge, along rows or columns."""
    padded = np.pad(mask, thickness)
    height, width = mask.shape
    inner = mask.copy()
    for step in (-thickness, thickness):
        inner &= padded[thickness + step : thickness + step + height, thickness : thickness + width]
        inner &= padded[thickness : thickness + height, thickness + step : thickness + step + width]
    return np.logical_xor(mask, inner, out=inner)
