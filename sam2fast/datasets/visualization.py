"""Draws annotated frames: colored masks in panels side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.io.overlay import area_of, colour_of_number, draw_columns, draw_ids
from sam2fast.io.rle import decode_rle
from sam2fast.results import draw_masks

GREY = 128  # background without a frame


class Panel(NamedTuple):
    """Masks to draw in one panel, with a title."""

    title: str
    size: tuple[int, int]
    masks: Masks
    first_id: int = 1  # displayed id of the first object


def draw_panels(rgb: NDArray[np.uint8] | None, panels: Sequence[Panel]) -> Image.Image:
    """Draws a panel for each set of masks, side by side, with titles above. Raises DatasetError if sizes differ.

    An object has the same color in every image, and its id at the upper left of its mask. Small objects are drawn over
    large objects. The frame is ``(H, W, 3)`` uint8, or None for a grey background.
    """
    return draw_columns([(panel.title, [_draw(rgb, panel)]) for panel in panels])


def _draw(rgb: NDArray[np.uint8] | None, panel: Panel) -> Image.Image:
    height, width = panel.size
    if rgb is None:
        rgb = np.full((height, width, 3), GREY, dtype=np.uint8)
    if rgb.shape[:2] != panel.size:
        raise DatasetError(f"{panel.title}: the image is {rgb.shape[0]}x{rgb.shape[1]}, its masks {height}x{width}")
    pixels = {number: decode_rle(rle) for number, rle in panel.masks.items()}
    order = sorted(pixels, key=lambda number: -int(pixels[number].sum()))
    masks = np.stack([pixels[number] for number in order]) if order else np.zeros((0, height, width), dtype=bool)
    # Objects with small ids get the colors that are easiest to distinguish.
    colours = [colour_of_number(number - 1) for number in order]
    image = draw_masks(rgb, masks, order, colours)
    areas = [area_of(mask) for mask in masks]
    shown = ((number, area, colour) for number, area, colour in zip(order, areas, colours, strict=True) if area)
    return draw_ids(image, ((str(n - 1 + panel.first_id), (area[1].start, area[0].start), c) for n, area, c in shown))
