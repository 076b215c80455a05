"""Things that can be put into a picture: their colours and alpha, in one piece or in parts that swing."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from sam2fast.training.data.synthetic.shapes import Shape, coverage, random_shape, rasterise
from sam2fast.training.data.synthetic.textures import Floats, Photograph, field, random_texture

Vector = NDArray[np.float64]

# Transparent pixels around a sprite: resampling fades to what lies beyond the edge.
BORDER = 2


@dataclass(frozen=True)
class Part:
    """One stiff or bendable piece of a thing."""

    picture: Image.Image  # RGBX: colours, not multiplied by the alpha in the fourth channel
    pivot: Vector  # (2,) the point of the picture, in its pixels, ...
    joint: Vector  # (2,) ... that lies here, in pixels from the thing's centre
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)  # amplitude, turns per frame, phase
    angle: float = 0.0


Thing = tuple[Part, ...]  # far to near


def single(picture: Image.Image) -> Thing:
    """A thing of one piece around its picture's centre."""
    return (Part(picture, np.array(picture.size) / 2, np.zeros(2)),)


def drawn_thing(
    rng: np.random.Generator, area: float, most: float, near: Floats | None, photograph: Photograph | None
) -> Thing:
    """A thing that does not exist.

    Args:
        area: that it should cover, in pixels.
        most: longest side allowed, in pixels.
        near: colours ``(N, 3)`` of the surroundings where it should hardly stand out.
        photograph: draws photographs, for textures.
    """
    if rng.random() < 0.12:
        return _figure(rng, area, most, near, photograph)
    shape = random_shape(rng)
    side = min(most, np.sqrt(area / coverage(shape)))
    return single(_textured(rng, shape, max(8, round(side)), near, photograph))


def cut_out_thing(rng: np.random.Generator, picture: Image.Image, area: float, most: float) -> Thing:
    """A cut-out, RGBA, scaled to cover ``area`` pixels, mirrored half of the times, its colours changed a little."""
    alpha = picture.getchannel("A")
    covered = np.asarray(alpha.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=1.0)).mean() / 255
    scale = np.sqrt(area / max(1.0, covered * picture.width * picture.height))
    scale = min(scale, most / max(picture.size))
    size = (max(4, round(scale * picture.width)), max(4, round(scale * picture.height)))
    picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        order = rng.permutation(3)
        channels = picture.split()
        picture = Image.merge("RGBA", [*(channels[i] for i in order), channels[3]])
    if rng.random() < 0.5:
        tones = [_curve(rng.uniform(0.7, 1.3), rng.uniform(-25, 25)) for _ in range(3)]
        picture = picture.point([*tones[0], *tones[1], *tones[2], *range(256)])
    return single(_with_border(_bled(picture), picture.getchannel("A")))


def recoloured(rng: np.random.Generator, thing: Thing) -> Thing:
    """A look-alike: the same thing, in slightly different colours."""
    curve = [v for _ in range(3) for v in _curve(rng.uniform(0.85, 1.15), rng.uniform(-15, 15))] + list(range(256))
    return tuple(replace(part, picture=part.picture.point(curve)) for part in thing)


def blurred(thing: Thing, radius: float) -> Thing:
    """The thing out of focus, its edge soft."""
    soft = ImageFilter.GaussianBlur(radius)
    return tuple(replace(part, picture=part.picture.filter(soft)) for part in thing)


def _textured(
    rng: np.random.Generator, shape: Shape, side: int, near: Floats | None, photograph: Photograph | None
) -> Image.Image:
    alpha = rasterise(shape, side)
    size = (side, side)
    colours = random_texture(rng, size, near, photograph)
    if rng.random() < 0.35:
        other = random_texture(rng, size, near, photograph)
        colours.paste(other, mask=_patches(rng, side))
    if rng.random() < 0.6:
        colours = _shaded(rng, colours, alpha)
    return _with_border(colours, alpha)


def _patches(rng: np.random.Generator, side: int) -> Image.Image:
    """Where a thing has its second surface: a few pieces with sharp edges."""
    if rng.random() < 0.5:
        return rasterise(random_shape(rng), side)
    level = int(rng.integers(90, 180))
    return field(rng, (side, side)).point([255 * (v > level) for v in range(256)])


def _shaded(rng: np.random.Generator, colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Darker towards the edge, on one side more than on the other, as if it were round; some with an outline."""
    small = alpha.resize((24, 24), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
    left, top = rng.uniform(-3, 3, 2)
    box = (max(left, 0), max(top, 0), 24 + min(left, 0), 24 + min(top, 0))
    light = small.resize(alpha.size, Image.Resampling.BICUBIC, box)
    darkest = rng.uniform(0.2, 0.75)
    light = light.point([round(255 * (darkest + (1 - darkest) * min(1.0, v / 200))) for v in range(256)])
    shaded = ImageChops.multiply(colours, Image.merge("RGB", [light] * 3))
    if rng.random() < 0.15:
        inside = alpha.filter(ImageFilter.MinFilter(2 * int(rng.integers(1, 3)) + 1))
        outline = Image.new("RGB", shaded.size, tuple(rng.integers(0, 70, 3).tolist()))
        outline.paste(shaded, mask=inside)
        return outline
    return shaded


def _figure(
    rng: np.random.Generator, area: float, most: float, near: Floats | None, photograph: Photograph | None
) -> Thing:
    """A body with limbs that swing about their joints."""
    body_shape = random_shape(rng)
    side = max(10, round(min(0.7 * most, np.sqrt(0.7 * area / coverage(body_shape)))))
    body = _textured(rng, body_shape, side, near, photograph)
    parts = [Part(body, np.array(body.size) / 2, np.zeros(2))]
    pair = _limb(rng, side, near, photograph)
    first = rng.uniform(0, 7)
    for i in range(count := int(rng.integers(2, 6))):
        limb = pair if rng.random() < 0.7 else _limb(rng, side, near, photograph)
        direction = first + 2 * np.pi * i / count + rng.normal(0, 0.2)
        joint = side * rng.uniform(0.2, 0.38) * np.array([np.cos(direction), np.sin(direction)])
        swing = (rng.uniform(0.1, 0.8), rng.uniform(0.02, 0.12), rng.uniform(0, 7))
        pivot = np.array([limb.width * 0.15, limb.height / 2])
        part = Part(limb, pivot, joint, swing, direction)
        parts.insert(0 if rng.random() < 0.6 else len(parts), part)
    return tuple(parts)


def _limb(rng: np.random.Generator, side: int, near: Floats | None, photograph: Photograph | None) -> Image.Image:
    """A long piece that points to the right."""
    length = max(8, round(side * rng.uniform(0.4, 1)))
    picture = _textured(rng, random_shape(rng), length, near, photograph)
    height = max(6, round(length * rng.uniform(0.25, 0.6)))
    colours, alpha = picture.convert("RGB"), picture.getchannel("X")
    return _with_border(
        colours.resize((length, height), Image.Resampling.BILINEAR),
        alpha.resize((length, height), Image.Resampling.BILINEAR),
    )


def _with_border(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """An RGBX sprite: the colours go on a little beyond the alpha, since resampling mixes neighbours."""
    size = (colours.width + 2 * BORDER, colours.height + 2 * BORDER)
    wider = colours.resize(size, Image.Resampling.NEAREST)
    wider.paste(colours, (BORDER, BORDER))
    opacity = Image.new("L", size)
    opacity.paste(alpha, (BORDER, BORDER))
    return Image.merge("RGBX", [*wider.split(), opacity])


def _bled(picture: Image.Image) -> Image.Image:
    """The RGB of an RGBA picture with the colours carried on a little way into what is transparent."""
    premultiplied = picture.convert("RGBa").filter(ImageFilter.BoxBlur(2))
    around = premultiplied.convert("RGBA").convert("RGB")
    around.paste(picture.convert("RGB"), mask=picture.getchannel("A").point([255 * (a > 8) for a in range(256)]))
    return around


def _curve(gain: float, offset: float) -> list[int]:
    return [int(min(255, max(0, 128 + gain * (v - 128) + offset))) for v in range(256)]
