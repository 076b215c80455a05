"""Draws annotated frames: coloured masks in panels side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.io.rle import decode_rle
from sam2fast.video_results.drawing import PADDING, area_of, colour_of, draw_id, draw_masks

GREY = 128  # background without a frame
GAP = 4  # pixels between panels
TEXT_SHARE = 40  # longer side of an image divided by the height of text
PAPER, INK = (24, 24, 24), (255, 255, 255)


class Panel(NamedTuple):
    """Masks to draw."""

    title: str
    size: tuple[int, int]
    masks: Masks
    first_id: int = 1  # shown as the id of the first object


def draw_panels(rgb: NDArray[np.uint8] | None, panels: Sequence[Panel]) -> Image.Image:
    """Draws a panel for each set of masks, side by side, with titles above. Raises DatasetError if sizes differ.

    An object has the same colour in every image, and its id at the upper left of its mask. Small objects are drawn over
    large ones. The frame is ``(H, W, 3)`` uint8, or None for a grey background.
    """
    drawn = [_draw(rgb, panel) for panel in panels]
    width = sum(image.width for image in drawn) + GAP * (len(drawn) - 1)
    height = _text_height(drawn[0])
    font, strip = ImageFont.load_default(height), height + 2 * PADDING
    whole = Image.new("RGB", (width, strip + max(image.height for image in drawn)), PAPER)
    draw, left = ImageDraw.Draw(whole), 0
    for panel, image in zip(panels, drawn, strict=True):
        whole.paste(image, (left, strip))
        draw.text((left + PADDING, PADDING // 2), panel.title, INK, font)
        left += image.width + GAP
    return whole


def _draw(rgb: NDArray[np.uint8] | None, panel: Panel) -> Image.Image:
    height, width = panel.size
    if rgb is None:
        rgb = np.full((height, width, 3), GREY, dtype=np.uint8)
    if rgb.shape[:2] != panel.size:
        raise DatasetError(f"{panel.title}: the image is {rgb.shape[0]}x{rgb.shape[1]}, its masks {height}x{width}")
    pixels = {number: decode_rle(rle) for number, rle in panel.masks.items()}
    order = sorted(pixels, key=lambda number: -int(pixels[number].sum()))
    masks = np.stack([pixels[number] for number in order]) if order else np.zeros((0, height, width), dtype=bool)
    # The first objects get the colours that are easiest to distinguish.
    colours = {number: colour_of(number - 1) for number in order}
    image = Image.fromarray(draw_masks(rgb, masks, order, list(colours.values())))
    draw, text = ImageDraw.Draw(image), _text_height(image)
    for number in order:
        area = area_of(pixels[number])
        if area is not None:
            corner = (area[1].start, area[0].start)
            draw_id(draw, str(number - 1 + panel.first_id), corner, text, colours[number])
    return image


def _text_height(image: Image.Image) -> int:
    return max(12, max(image.size) // TEXT_SHARE)
