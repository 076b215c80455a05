"""Draws masks, ids and prompts on images, and draws images side by side."""

import colorsys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sam2fast.io.label_maps import stack_masks
from sam2fast.io.png import encode_rows

Colour: TypeAlias = tuple[int, int, int]
Area: TypeAlias = tuple[slice, slice]  # rows and columns of an image

# Mask colours that are distinguishable with any colour vision.
COLOURS = ((230, 20, 130), (0, 158, 255), (255, 176, 0), (60, 200, 110), (150, 110, 255))
# Further mask colours: hue distance of consecutive colours (golden ratio), and cyclic pairs of saturation and value.
HUE_STEP = (5**0.5 - 1) / 2
SHADES = ((0.9, 0.95), (0.55, 1.0), (0.95, 0.7))
LINE_SHARE = 900  # longer side of a frame divided by the width of outlines in draw_objects
CLICK_COLOURS = {True: (20, 160, 70), False: (215, 40, 40)}  # True for foreground clicks
OUTLINE_COLOUR = (255, 255, 255)
BOX_COLOUR = (255, 255, 255)
BOX_SHADOW = (30, 30, 30)
MOST_SAMPLES = 1 << 20  # maximum pixels in an object's box that are sampled for its mean colour
SMOOTH = 4  # factor by which markers are enlarged while drawing, for smooth edges after downscaling
TEXT_SHARE, PADDING = 50, 3  # longer side of an image divided by the height of text; pixels around text
PAPER, INK, GAP = (24, 24, 24), (255, 255, 255), 4  # colours of background and text, and pixels between columns


def draw_overlay(
    image: np.ndarray,
    masks: np.ndarray | None = None,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    colours: Sequence[Colour] | None = None,
) -> Image.Image:
    """Draws masks, tinted and outlined in white, and prompts on a copy of an image.

    Line widths scale with the image's size. Smaller masks are drawn over larger masks. Prompts are clipped to the
    image.

    Args:
        image: RGB image ``(H, W, 3)`` uint8.
        masks: Masks ``(N, H, W)`` bool.
        points: Clicks ``(P, 2)``, (x, y) in pixels. Foreground is a plus on green, and background a minus on red.
        labels: Labels ``(P)`` of clicks, 1 for foreground and 0 for background. Defaults to foreground.
        boxes: Boxes ``(B, 4)``, XYXY in pixels.
        colours: Tints of the N masks. Defaults to :func:`choose_colours`.

    Raises:
        ValueError: If a shape or dtype is invalid.
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
    order = np.argsort([-np.count_nonzero(mask) for mask in masks], kind="stable")
    ids = stack_masks(((i + 1, masks[i] != 0) for i in order), image.shape[:2], np.uint16)
    canvas = Image.fromarray(_tint_labels(image, ids, np.array([(0, 0, 0), *colours], dtype=np.uint8), round(unit)))
    for box in _array(boxes, 4, "boxes"):
        _draw_box(canvas, box, max(1, round(2.5 * unit)))
    for (x, y), is_foreground in zip(clicks, foreground, strict=True):
        _draw_click(canvas, x, y, bool(is_foreground), max(5, round(11 * unit)))
    return canvas


def choose_colours(image: np.ndarray, masks: np.ndarray) -> list[Colour]:
    """Returns for each mask ``(H, W)`` the tint that differs most from the mask's pixels. Five masks differ in tint."""
    tints: list[Colour] = []
    unused: list[Colour] = []
    for mask in masks:
        unused = unused or list(COLOURS)
        area = area_of(mask)
        inside = mask if area is None else mask[area]
        step = max(1, round((inside.size / MOST_SAMPLES) ** 0.5))
        below = image if area is None else image[area]
        tints.append(_least_like(below[::step, ::step][inside[::step, ::step] != 0], unused))
        unused.remove(tints[-1])
    return tints


def colour_of_number(number: int) -> Colour:
    """Returns an RGB colour for a number. The colours of 0 to 4 are the easiest to distinguish."""
    if 0 <= number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = colorsys.hsv_to_rgb(number * HUE_STEP % 1, *SHADES[number % len(SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def label_colours(count: int) -> NDArray[np.uint8]:
    """Returns colours ``(count + 1, 3)`` of labels 0 to ``count``. Label 0 is black."""
    return np.array([(0, 0, 0), *map(colour_of_number, range(count))], dtype=np.uint8)


def area_of(mask: NDArray[np.bool_]) -> Area | None:
    """Returns the bounding box of a bool mask ``(H, W)`` as slices of rows and columns, or None for an empty mask."""
    if mask.flags.fnc:  # column-major, as decoded run lengths are
        area = area_of(mask.T)
        return area and (area[1], area[0])
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def layers_png(image: np.ndarray, ids: np.ndarray) -> bytes:
    """Returns a PNG file of an image ``(H, W, 3)`` uint8 with tinted and outlined objects ``ids (H, W)``."""
    width = round(max(image.shape[:2]) / 1000)
    colours, margin = label_colours(int(ids.max(initial=0))), 2 * width

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = max(start - margin - 1, 0), min(stop + margin + 1, len(ids))
        drawn = _tint_labels(image[first:last], ids[first:last], colours, width)
        return drawn[start - first : stop - first]

    return encode_rows(rows, image.shape, image.dtype)


def _tint_labels(image: np.ndarray, ids: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    """Returns a copy of the image with tinted objects ``ids (H, W)`` and white outlines of 2 + 2 ``width`` pixels."""
    # Table entries of four bytes, and pixels of three bytes, are copied as single elements.
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
    """Widens lines (255 on background 0) by ``width`` pixels to each side, and blurs the lines."""
    if width == 0:
        return edges
    # A box blur is above 0 at the same pixels as a maximum filter, but the blur's time does not depend on the width.
    for radius in ((width, 0), (0, width)):
        edges = edges.filter(ImageFilter.BoxBlur(radius)).point(lambda value: 255 * (value > 0))
    return edges.filter(ImageFilter.BoxBlur(width / 2))


def draw_objects(rgb: NDArray[np.uint8], objects: Iterable[tuple[NDArray[np.bool_], Colour]]) -> NDArray[np.uint8]:
    """Returns a copy of an image ``(H, W, 3)`` uint8. Each object is tinted and outlined in its colour.

    Fast enough for videos. Earlier objects cover later objects. Only one mask ``(H, W)`` is in memory at a time.
    """
    image = np.array(rgb, order="C")
    height, width = image.shape[:2]
    hidden: NDArray[np.bool_] | None = None
    for mask, colour in objects:
        area = area_of(mask)
        if area is None:
            continue
        if hidden is None:  # has the memory order of masks, since mixed orders are slow
            hidden = np.zeros(mask.shape, dtype=bool, order="F" if mask.flags.fnc else "C")
        rows, columns = area
        shown = mask[area] & ~hidden[area]
        hidden[area] |= shown
        # Processes rows of bytes instead of pixels, so that NumPy can vectorise.
        half = image.reshape(height, 3 * width)[rows, 3 * columns.start : 3 * columns.stop] >> 1
        half += np.tile(np.array(colour, dtype=np.uint8) >> 1, columns.stop - columns.start)
        pixels = image.view("V3")[..., 0][area]
        np.copyto(pixels, half.view("V3"), where=shown)
        edge = _inner_edge(shown, max(1, round(max(height, width) / LINE_SHARE)))
        pixels[edge] = np.array(colour, dtype=np.uint8).view("V3")
    return image


def _inner_edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Returns the pixels of a mask within ``thickness`` of its edge along rows or columns."""
    padded = np.pad(mask, thickness)
    height, width = mask.shape
    inner = mask.copy()
    for step in (-thickness, thickness):
        inner &= padded[thickness + step : thickness + step + height, thickness : thickness + width]
        inner &= padded[thickness : thickness + height, thickness + step : thickness + step + width]
    return np.logical_xor(mask, inner, out=inner)


def draw_ids(rgb: NDArray[np.uint8], ids: Iterable[tuple[str, tuple[int, int], Colour]]) -> Image.Image:
    """Draws each id on a background of the object's colour, above the upper left corner (x, y) of the object."""
    image = Image.fromarray(rgb)
    draw, height = ImageDraw.Draw(image), _text_height(image.size)
    font = ImageFont.load_default(height)
    for text, (x, y), colour in ids:
        place = x + PADDING, max(y - height - 2 * PADDING, PADDING)
        left, top, right, bottom = draw.textbbox(place, text, font)
        draw.rectangle((left - PADDING, top - PADDING, right + PADDING, bottom + PADDING), fill=colour)
        luminance = np.dot((np.array(colour) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))
        draw.text(place, text, INK if luminance < 0.18 else (0, 0, 0), font)  # colour with the better contrast
    return image


def draw_columns(columns: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Draws columns of images side by side, with a title above each column."""
    widths = [images[0].width for _, images in columns]
    heights = [sum(image.height + GAP for image in images) for _, images in columns]
    size = _text_height(columns[0][1][0].size)
    font, strip = ImageFont.load_default(size), size + 2 * PADDING
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), strip + max(heights) - GAP), PAPER)
    draw, x = ImageDraw.Draw(sheet), 0
    for width, (title, images) in zip(widths, columns, strict=True):
        draw.text((x + PADDING, PADDING // 2), title, INK, font)
        y = strip
        for image in images:
            sheet.paste(image, (x, y))
            y += image.height + GAP
        x += width + GAP
    return sheet


def _text_height(size: tuple[int, int]) -> int:
    return max(12, max(size) // TEXT_SHARE)


def _array(value: Any, width: int, name: str) -> np.ndarray:
    array = np.zeros((0, width)) if value is None else np.asarray(value, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, width))
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"expected {name} (N, {width}), got shape {array.shape}")
    return array


def _least_like(pixels: np.ndarray, colours: list[Colour]) -> Colour:
    """Returns the colour farthest from the mean of ``pixels (P, 3)``. For example, a pink car is not tinted pink."""
    if not len(pixels):
        return colours[0]
    mean = pixels.mean(axis=0)
    return max(colours, key=lambda colour: float(np.square(mean - colour).sum()))


def _draw_box(canvas: Image.Image, box: np.ndarray, width: int) -> None:
    # Corners are clipped, since Pillow spends time and memory on distant corners. Lines outside the image are
    # invisible.
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
    """Returns a disc with a white rim and a plus or minus, RGBA, 2 ``radius`` + 1 pixels wide."""
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
