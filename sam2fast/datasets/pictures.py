"""Pictures of annotated frames: the masks in colour, one panel beside the other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.errors import DatasetError
from sam2fast.io.rle import decode_rle
from sam2fast.video_results.drawing import area_of, colour_of, draw_masks

GREY = 128  # where there is no picture
GAP = 4  # pixels between panels
PADDING = 3  # around text
TEXT_SHARE = 40  # a picture's longer side is so many times the height of text
PAPER, INK = (24, 24, 24), (255, 255, 255)


class Panel(NamedTuple):
    """Masks to draw."""

    title: str
    size: tuple[int, int]
    masks: Masks
    first_id: int = 1  # as which the first object is shown


def draw_panels(rgb: NDArray[np.uint8] | None, panels: Sequence[Panel]) -> Image.Image:
    """One picture with a panel for each of several sets of masks, side by side, their titles above.

    An object has the same colour in every picture; its id stands at the upper left of its mask. Small objects lie above
    large ones.

    Args:
        rgb: the frame ``(H, W, 3)`` uint8; without, the ground is grey.

    Raises:
        DatasetError: the frame is of another size than the masks.
    """
    drawn = [_draw(rgb, panel) for panel in panels]
    width = sum(picture.width for picture in drawn) + GAP * (len(drawn) - 1)
    height = _text_height(drawn[0])
    font, strip = ImageFont.load_default(height), height + 2 * PADDING
    whole = Image.new("RGB", (width, strip + max(picture.height for picture in drawn)), PAPER)
    draw, left = ImageDraw.Draw(whole), 0
    for panel, picture in zip(panels, drawn, strict=True):
        whole.paste(picture, (left, strip))
        draw.text((left + PADDING, PADDING // 2), panel.title, INK, font)
        left += picture.width + GAP
    return whole


def _draw(rgb: NDArray[np.uint8] | None, panel: Panel) -> Image.Image:
    height, width = panel.size
    if rgb is None:
        rgb = np.full((height, width, 3), GREY, dtype=np.uint8)
    if rgb.shape[:2] != panel.size:
        raise DatasetError(f"{panel.title}: the picture is {rgb.shape[0]}x{rgb.shape[1]}, its masks {height}x{width}")
    pixels = {number: decode_rle(rle) for number, rle in panel.masks.items()}
    order = sorted(pixels, key=lambda number: -int(pixels[number].sum()))
    masks = np.stack([pixels[number] for number in order]) if order else np.zeros((0, height, width), dtype=bool)
    # The first objects get the colours that are told apart most easily.
    colours = {number: colour_of(number - 1) for number in order}
    picture = Image.fromarray(draw_masks(rgb, masks, order, list(colours.values())))
    draw, text = ImageDraw.Draw(picture), _text_height(picture)
    font = ImageFont.load_default(text)
    for number in order:
        area = area_of(pixels[number])
        if area is not None:
            name = str(number - 1 + panel.first_id)
            place = (area[1].start + PADDING, max(area[0].start - text - 2 * PADDING, PADDING))
            left, top, right, bottom = draw.textbbox(place, name, font)
            sign = (left - PADDING, top - PADDING, right + PADDING, bottom + PADDING)
            draw.rectangle(sign, fill=colours[number])
            draw.text(place, name, (0, 0, 0), font)
    return picture


def _text_height(picture: Image.Image) -> int:
    return max(12, max(picture.size) // TEXT_SHARE)
