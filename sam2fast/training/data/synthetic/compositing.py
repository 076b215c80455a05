"""Frames put together from far to near, and which thing each pixel shows."""

from dataclasses import dataclass
from math import ceil, cos, floor, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sam2fast.training.data.synthetic.motion import Floats, Warp
from sam2fast.training.data.synthetic.sprites import Part, Thing

Matrix = tuple[float, float, float, float, float, float]  # x' = a x + b y + c, y' = d x + e y + f
Owner = NDArray[np.uint8]  # (S, S): 0 background, else 1 + the index of the actor that the pixel shows

# A pixel shows a thing that covers at least half of it.
OPAQUE = 128
# Cells that a bent sprite is cut into along each side of its place in the frame.
CELLS = 4


@dataclass(frozen=True)
class Shadow:
    """Soft dark copies of a thing's parts, at half their resolution, with a border that the softness needs."""

    pictures: tuple[Image.Image, ...]  # L, how dark
    border: int
    offset: tuple[float, float]  # from the thing, in pixels of the frame

    @classmethod
    def random(cls, rng: np.random.Generator, thing: Thing, size: int) -> "Shadow":
        """One for this thing, in frames of ``size`` pixels."""
        blur, strength = size * rng.uniform(0.002, 0.015), rng.uniform(0.2, 0.7)
        border = ceil(3 * blur) + 1
        darkness = [round(strength * alpha) for alpha in range(256)]
        pictures = []
        for part in thing:
            alpha = part.picture.getchannel(3).reduce(2).point(darkness)
            picture = Image.new("L", (alpha.width + 2 * border, alpha.height + 2 * border))
            picture.paste(alpha, (border, border))
            pictures.append(picture.filter(ImageFilter.GaussianBlur(blur)))
        x, y = size * rng.uniform(-0.04, 0.04, 2)
        return cls(tuple(pictures), border, (float(x), float(y)))


@dataclass(frozen=True)
class Actor:
    """A thing and how it moves."""

    thing: Thing
    path: Floats  # (N, 2, 3), from its pixels to the frame's, at each of N times
    times: Floats  # (N,)
    warp: Warp | None = None
    shadow: Shadow | None = None


def paint_actor(frame: Image.Image, owner: Owner | None, actor: Actor, step: int, number: int) -> None:
    """Puts the actor, as it is at its ``step``-th time, over an RGBX frame, and its number over the owners."""
    if actor.shadow is not None:
        for part, shadow in zip(actor.thing, actor.shadow.pictures, strict=True):
            matrix = _shadow_matrix(_part_matrix(actor, part, step), actor.shadow)
            placed = _place(shadow, matrix, None, 0.0, frame.size)
            if placed is not None:
                frame.paste((0, 0, 0, 0), placed[1], placed[0])
    for part in actor.thing:
        matrix = _part_matrix(actor, part, step)
        placed = _place(part.picture, matrix, actor.warp, float(actor.times[step]), frame.size)
        if placed is None:
            continue
        picture, (left, top) = placed
        alpha = picture.getchannel(3)
        frame.paste(picture, (left, top), alpha)
        if owner is not None:
            region = owner[top : top + picture.height, left : left + picture.width]
            region[np.asarray(alpha) >= OPAQUE] = number


def footprint(actor: Actor, step: int, size: int) -> NDArray[np.bool_]:
    """The pixels ``(S, S)`` of the frame that the actor would have if nothing was before it."""
    covered = np.zeros((size, size), dtype=bool)
    for part in actor.thing:
        matrix, alpha = _part_matrix(actor, part, step), part.picture.getchannel(3)
        placed = _place(alpha, matrix, actor.warp, float(actor.times[step]), (size, size))
        if placed is not None:
            picture, (left, top) = placed
            covered[top : top + picture.height, left : left + picture.width] |= np.asarray(picture) >= OPAQUE
    return covered


def _part_matrix(actor: Actor, part: Part, step: int) -> Matrix:
    """From the pixels of the part's picture to the frame's."""
    amplitude, frequency, phase = part.swing
    turn = part.angle + amplitude * sin(2 * np.pi * frequency * float(actor.times[step]) + phase)
    c, s, (px, py), (jx, jy) = cos(turn), sin(turn), part.pivot.tolist(), part.joint.tolist()
    x, y = jx - c * px + s * py, jy - s * px - c * py
    (a, b, tx), (d, e, ty) = actor.path[step].tolist()
    return (
        a * c + b * s, b * c - a * s, a * x + b * y + tx,
        d * c + e * s, e * c - d * s, d * x + e * y + ty,
    )  # fmt: skip


def _shadow_matrix(matrix: Matrix, shadow: Shadow) -> Matrix:
    """From the pixels of the shadow of a part that has this matrix to the frame's."""
    a, b, c, d, e, f = matrix
    (dx, dy), inset = shadow.offset, 2 * shadow.border
    return (2 * a, 2 * b, c - inset * (a + b) + dx, 2 * d, 2 * e, f - inset * (d + e) + dy)


def _place(
    picture: Image.Image, matrix: Matrix, warp: Warp | None, time: float, size: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]] | None:
    """The picture as it appears in the frame, cut to where it does, and that place; None where it does not."""
    a, b, c, d, e, f = matrix
    width, height = picture.size
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
        placed = picture.transform(box, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    else:
        mesh = _mesh(warp, inverse, box, picture.size, time)
        placed = picture.transform(box, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return placed, (left, top)


def _mesh(
    warp: Warp, inverse: Matrix, box: tuple[int, int], source: tuple[int, int], time: float
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Rectangles of the frame, and the corners of what they show of the picture, as ``MESH`` wants them."""
    columns, rows = (sorted({round(i * side / CELLS) for i in range(CELLS + 1)}) for side in box)
    x, y = np.meshgrid(np.array(columns, dtype=float), np.array(rows, dtype=float))
    a, b, c, d, e, f = inverse
    u, v = warp.shift(a * x + b * y + c, d * x + e * y + f, max(source), time)
    corners = np.stack([u, v], axis=2)
    # Upper left, lower left, lower right, upper right.
    quads = np.concatenate([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], axis=2).tolist()
    return [
        ((columns[i], rows[j], columns[i + 1], rows[j + 1]), tuple(quads[j][i]))
        for j in range(len(rows) - 1)
        for i in range(len(columns) - 1)
    ]
