"""Compositing of objects into frames, from far to near, with object maps, and photometric effects of a camera."""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import ceil, cos, floor, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sam2fast.training.data.synthetic.motion import Floats, Warp
from sam2fast.training.data.synthetic.sprites import Sprite, SpritePart

Matrix = tuple[float, float, float, float, float, float]  # x' = a x + b y + c, y' = d x + e y + f
ObjectMap = NDArray[np.uint8]  # (S, S): 0 for background, 1 + index of the visible object otherwise

# Minimum alpha of pixels that belong to an object. Alpha 128 means that the object covers half of the pixel.
OPAQUE = 128
# Number of mesh cells along each side of a warped sprite.
CELLS = 4
NOISE_LEVELS = (1.5, 2.5, 4.0, 6.0, 9.0, 13.0)  # standard deviations of the noise, in grey levels
# Number of pixels by which the noise tile's side is larger than a frame's side.
NOISE_SLACK = 64


@dataclass(frozen=True)
class Shadow:
    """Blurred dark copies of a sprite's parts at half resolution, with a border for the blur."""

    images: tuple[Image.Image, ...]  # mode L: darkness
    border: int
    offset: tuple[float, float]  # shift of the shadow from the sprite, in pixels of the frame

    @classmethod
    def random(cls, rng: np.random.Generator, sprite: Sprite, size: int) -> "Shadow":
        """Returns a random shadow of ``sprite``, for frames of ``size`` x ``size`` pixels."""
        blur, strength = size * rng.uniform(0.002, 0.015), rng.uniform(0.2, 0.7)
        border = ceil(3 * blur) + 1
        darkness = [round(strength * alpha) for alpha in range(256)]
        images = []
        for part in sprite:
            alpha = part.image.getchannel(3).reduce(2).point(darkness)
            image = Image.new("L", (alpha.width + 2 * border, alpha.height + 2 * border))
            image.paste(alpha, (border, border))
            images.append(image.filter(ImageFilter.GaussianBlur(blur)))
        x, y = size * rng.uniform(-0.04, 0.04, 2)
        return cls(tuple(images), border, (float(x), float(y)))


@dataclass(frozen=True)
class SceneObject:
    """Object in a scene: a sprite, and its motion over a clip's N exposure times."""

    sprite: Sprite
    path: Floats  # (N, 2, 3) matrices from the sprite's pixels to the frame's pixels, one per exposure time
    times: Floats  # (N,) exposure times
    warp: Warp | None = None
    shadow: Shadow | None = None


def paint_object(frame: Image.Image, object_map: ObjectMap | None, obj: SceneObject, step: int, number: int) -> None:
    """Paints an object at exposure time number ``step`` onto an RGBX frame, and ``number`` onto the object map."""
    if obj.shadow is not None:
        for part, shadow in zip(obj.sprite, obj.shadow.images, strict=True):
            a, b, c, d, e, f = _part_matrix(obj, part, step)
            (dx, dy), inset = obj.shadow.offset, 2 * obj.shadow.border
            matrix = (2 * a, 2 * b, c - inset * (a + b) + dx, 2 * d, 2 * e, f - inset * (d + e) + dy)
            placed = _transformed(shadow, matrix, None, 0.0, frame.size)
            if placed is not None:
                frame.paste((0, 0, 0, 0), placed[1], placed[0])
    for part in obj.sprite:
        matrix = _part_matrix(obj, part, step)
        placed = _transformed(part.image, matrix, obj.warp, float(obj.times[step]), frame.size)
        if placed is None:
            continue
        image, (left, top) = placed
        alpha = image.getchannel(3)
        frame.paste(image, (left, top), alpha)
        if object_map is not None:
            region = object_map[top : top + image.height, left : left + image.width]
            region[np.asarray(alpha) >= OPAQUE] = number


def footprint(obj: SceneObject, step: int, size: int) -> NDArray[np.bool_]:
    """Returns the mask ``(S, S)`` that an object has without occlusion."""
    covered = np.zeros((size, size), dtype=bool)
    for part in obj.sprite:
        matrix, alpha = _part_matrix(obj, part, step), part.image.getchannel(3)
        placed = _transformed(alpha, matrix, obj.warp, float(obj.times[step]), (size, size))
        if placed is not None:
            image, (left, top) = placed
            covered[top : top + image.height, left : left + image.width] |= np.asarray(image) >= OPAQUE
    return covered


def _part_matrix(obj: SceneObject, part: SpritePart, step: int) -> Matrix:
    """Returns the matrix from pixels of the part's image to pixels of the frame."""
    amplitude, frequency, phase = part.swing
    turn = part.angle + amplitude * sin(2 * np.pi * frequency * float(obj.times[step]) + phase)
    c, s, (px, py), (jx, jy) = cos(turn), sin(turn), part.pivot.tolist(), part.joint.tolist()
    x, y = jx - c * px + s * py, jy - s * px - c * py
    (a, b, tx), (d, e, ty) = obj.path[step].tolist()
    return (
        a * c + b * s, b * c - a * s, a * x + b * y + tx,
        d * c + e * s, e * c - d * s, d * x + e * y + ty,
    )  # fmt: skip


def _transformed(
    image: Image.Image, matrix: Matrix, warp: Warp | None, time: float, size: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]] | None:
    """Transforms an image to the frame. Returns the image part inside the frame and its corner, or None if outside."""
    a, b, c, d, e, f = matrix
    width, height = image.size
    slack = 0.0
    if warp is not None:
        reach = np.abs(warp.height).max() * max(width, height)
        slack = reach * max(abs(a) + abs(b), abs(d) + abs(e))
    xs = (c, a * width + c, b * height + c, a * width + b * height + c)
    ys = (f, d * width + f, e * height + f, d * width + e * height + f)
    left, top = max(0, floor(min(xs) - slack)), max(0, floor(min(ys) - slack))
    right, bottom = min(size[0], ceil(max(xs) + slack)), min(size[1], ceil(max(ys) + slack))
    if right <= left or bottom <= top:
        return None
    determinant = a * e - b * d
    ia, ib, id, ie = e / determinant, -b / determinant, -d / determinant, a / determinant
    inverse = (
        ia, ib, ia * (left - c) + ib * (top - f),
        id, ie, id * (left - c) + ie * (top - f),
    )  # fmt: skip
    box = (right - left, bottom - top)
    if warp is None:
        placed = image.transform(box, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    else:
        mesh = _mesh(warp, inverse, box, image.size, time)
        placed = image.transform(box, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return placed, (left, top)


def _mesh(
    warp: Warp, inverse: Matrix, box: tuple[int, int], source: tuple[int, int], time: float
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Returns rectangles of the frame and the matching quadrilaterals of the image for PIL's ``Transform.MESH``."""
    columns, rows = (sorted({round(i * side / CELLS) for i in range(CELLS + 1)}) for side in box)
    x, y = np.meshgrid(np.array(columns, dtype=float), np.array(rows, dtype=float))
    a, b, c, d, e, f = inverse
    u, v = warp.shift(a * x + b * y + c, d * x + e * y + f, max(source), time)
    corners = np.stack([u, v], axis=2)
    # Orders the corners of each quadrilateral: upper left, lower left, lower right, upper right.
    quads = np.concatenate([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], axis=2).tolist()
    return [
        ((columns[i], rows[j], columns[i + 1], rows[j + 1]), tuple(quads[j][i]))
        for j in range(len(rows) - 1)
        for i in range(len(columns) - 1)
    ]


class Photometry:
    """Photometric effects of a clip with frames of ``size`` pixels: exposure, color, blur, noise and compression.

    All effects except noise and a slow drift of the contrast are constant over the clip.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._gain = 1 + rng.normal(0, 0.1) + rng.normal(0, 0.04, 3)
        self._offset = rng.normal(0, 8) + rng.normal(0, 4, 3)
        self._drift = rng.normal(0, 0.08) if rng.random() < 0.4 else 0.0
        self._flicker = rng.uniform(0.03, 0.6), rng.uniform(0, 7)  # drift of the contrast: radians per frame, and phase
        self._blur = rng.uniform(0.3, 1.1) * size / 256 if rng.random() < 0.15 else 0.0
        self._quality = int(rng.integers(15, 85)) if rng.random() < 0.25 else None
        self._noise: NDArray[np.int16] | None = None
        if rng.random() < 0.45:
            self._noise = _noise_tile(size + NOISE_SLACK, NOISE_LEVELS[rng.integers(len(NOISE_LEVELS))])

    def apply(self, frame: Image.Image, time: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Applies the effects to a frame at ``time`` and returns the pixels ``(S, S, 3)`` uint8."""
        if self._blur:
            frame = frame.filter(ImageFilter.GaussianBlur(self._blur))
        rate, phase = self._flicker
        change = 1 + self._drift * (np.sin(rate * time + phase) - np.sin(phase))
        values = np.arange(256)
        curves = [128 + (values - 128) * gain * change + self._offset[i] for i, gain in enumerate(self._gain)]
        frame = frame.point(np.clip(np.concatenate(curves), 0, 255).astype(np.uint8).tolist())
        pixels = np.asarray(frame)
        if self._noise is not None:
            top, left = rng.integers(0, len(self._noise) - frame.width, 2)
            noise = self._noise[top : top + frame.height, left : left + frame.width]
            pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        if self._quality is None:
            return pixels
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=self._quality)
        return np.asarray(Image.open(buffer))


@cache
def _noise_tile(side: int, level: float) -> NDArray[np.int16]:
    """Returns Gaussian noise ``(side, side, 3)`` from a fixed seed. Every frame gets a crop of the noise tile."""
    noise = np.random.default_rng(5).standard_normal((side, side, 3), dtype=np.float32)
    return np.round(level * noise).astype(np.int16)
