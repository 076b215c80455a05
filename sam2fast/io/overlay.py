"""Draws masks and prompts on top of their image."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour: TypeAlias = tuple[int, int, int]
Area: TypeAlias = tuple[slice, slice]  # rows and columns of an image

# Tints of masks, which people with any colour vision can distinguish.
COLOURS = ((230, 20, 130), (0, 158, 255), (255, 176, 0), (60, 200, 110), (150, 110, 255))
TINT = 0.5  # share of the colour inside a mask
CLICK_COLOURS = {True: (20, 160, 70), False: (215, 40, 40)}  # by foreground
OUTLINE_COLOUR = (255, 255, 255)
BOX_COLOUR = (255, 255, 255)
BOX_SHADOW = (30, 30, 30)
MOST_SAMPLES = 1 << 20  # pixels of an object's box that its mean colour is taken from
SMOOTH = 4  # markers are drawn so many times larger, then reduced


def draw_overlay(
    image: np.ndarray,
    masks: np.ndarray | None = None,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    colours: Sequence[Colour] | None = None,
) -> Image.Image:
    """The image with masks tinted and outlined, and the prompts drawn.

    Line widths follow the image's size. Prompts outside the image are cut off.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        masks: ``(N, H, W)`` bool.
        points: ``(P, 2)`` clicks (x, y) in pixels; a plus on green or a minus on red.
        labels: ``(P)``; 1 foreground, 0 background. Without labels all are foreground.
        boxes: ``(B, 4)`` XYXY in pixels.
        colours: tints of the N masks; without, those of :func:`choose_colours`.

    Raises:
        ValueError: a shape or dtype does not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB uint8 image (H, W, 3), got {image.dtype} {image.shape}")
    masks = np.zeros((0, *image.shape[:2]), dtype=bool) if masks is None else np.asarray(masks)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"expected masks (N, {image.shape[0]}, {image.shape[1]}), got {masks.shape}")
    clicks = _array(points, 2, "points")
    foreground = np.ones(len(clicks), dtype=bool) if labels is None else np.asarray(labels).reshape(-1) == 1
    if len(foreground) != len(clicks):
        raise ValueError(f"{len(foreground)} labels for {len(clicks)} points")

    colours = choose_colours(image, masks) if colours is None else colours
    if len(colours) != len(masks):
        raise ValueError(f"{len(colours)} colours for {len(masks)} masks")

    unit = max(image.shape[:2]) / 1000
    canvas = Image.fromarray(np.ascontiguousarray(image))
    for mask, colour in zip(masks, colours, strict=True):
        _tint(canvas, mask != 0, colour, max(1.0, 1.5 * unit))
    for box in _array(boxes, 4, "boxes"):
        _draw_box(canvas, box, max(1, round(2.5 * unit)))
    for (x, y), is_foreground in zip(clicks, foreground, strict=True):
        _draw_click(canvas, x, y, bool(is_foreground), max(5, round(11 * unit)))
    return canvas


def choose_colours(image: np.ndarray, masks: np.ndarray) -> list[Colour]:
    """For each of ``masks (N, H, W)`` the tint least like what is below it; five masks get five different ones."""
    chosen: list[Colour] = []
    unused: list[Colour] = []
    for mask in masks:
        unused = unused or list(COLOURS)
        area = area_of(mask)
        inside = mask if area is None else mask[area]
        step = max(1, round((inside.size / MOST_SAMPLES) ** 0.5))
        below = image if area is None else image[area]
        chosen.append(_least_like(below[::step, ::step][inside[::step, ::step] != 0], unused))
        unused.remove(chosen[-1])
    return chosen


def area_of(mask: NDArray[np.bool_]) -> Area | None:
    """The bounding box of a bool mask ``(H, W)`` as slices of rows and columns; None for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _array(value: Any, width: int, name: str) -> np.ndarray:
    array = np.zeros((0, width)) if value is None else np.asarray(value, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, width))
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"expected {name} (N, {width}), got shape {array.shape}")
    return array


def _least_like(pixels: np.ndarray, colours: list[Colour]) -> Colour:
    """The colour farthest from the mean of ``pixels (P, 3)``, so that a pink car is not tinted pink."""
    if not len(pixels):
        return colours[0]
    mean = pixels.mean(axis=0)
    return max(colours, key=lambda colour: float(np.square(mean - colour).sum()))


def _tint(canvas: Image.Image, mask: np.ndarray, colour: Colour, width: float) -> None:
    """Tints and outlines one mask ``(H, W)`` in place; the outline is ``width`` pixels to either side of the edge."""
    area = area_of(mask)
    if area is None:
        return
    # Beyond this margin the blurred mask is 0.
    y, x = (max(side.start - math.ceil(4 * width), 0) for side in area)
    bottom, right = (side.stop + math.ceil(4 * width) for side in area)
    shape = Image.fromarray(mask[y:bottom, x:right].astype(np.uint8) * np.uint8(255))
    canvas.paste(colour, (x, y), shape.point(lambda value: round(value * TINT)))
    # A blurred mask is at half its height on the edge and falls off smoothly to both sides.
    blurred = shape.filter(ImageFilter.GaussianBlur(width))
    edge = blurred.point(lambda value: round(255 * max(0.0, 1 - (abs(value - 127.5) / 100) ** 4)))
    canvas.paste(OUTLINE_COLOUR, (x, y), edge)


def _draw_box(canvas: Image.Image, box: np.ndarray, width: int) -> None:
    # PIL would spend time and memory on far corners; a line outside the image is invisible.
    margin = 4 * width
    limits = (canvas.width + margin, canvas.height + margin) * 2
    x0, y0, x1, y1 = (round(float(np.clip(v, -margin, high))) for v, high in zip(box, limits, strict=True))
    draw = ImageDraw.Draw(canvas)
    rim = (width + 1) // 2
    draw.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline=BOX_SHADOW, width=width + 2 * rim)
    draw.rectangle((x0, y0, x1, y1), outline=BOX_COLOUR, width=width)


def _draw_click(canvas: Image.Image, x: float, y: float, is_foreground: bool, radius: int) -> None:
    if not (-radius <= x < canvas.width + radius and -radius <= y < canvas.height + radius):
        return
    marker = _marker(is_foreground, radius)
    canvas.paste(marker, (round(x) - marker.width // 2, round(y) - marker.height // 2), marker)


def _marker(is_foreground: bool, radius: int) -> Image.Image:
    """A disc with a white rim and a plus or minus; RGBA, 2 ``radius`` + 1 pixels wide."""
    size = (2 * radius + 1) * SMOOTH
    big = Image.new("RGBA", (size, size), (255, 255, 255, 0))
    draw = ImageDraw.Draw(big)
    middle, rim, arm, half = (size - 1) / 2, 0.17 * size, 0.2 * size, 0.055 * size
    draw.ellipse((0, 0, size - 1, size - 1), fill=(255, 255, 255, 255))
    draw.ellipse((rim * 0.7, rim * 0.7, size - 1 - rim * 0.7, size - 1 - rim * 0.7), fill=CLICK_COLOURS[is_foreground])
    draw.rectangle((middle - arm, middle - half, middle + arm, middle + half), fill=(255, 255, 255))
    if is_foreground:
        draw.rectangle((middle - half, middle - arm, middle + half, middle + arm), fill=(255, 255, 255))
    return big.reduce(SMOOTH)
