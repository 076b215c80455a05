"""Sprites: colors and alpha of an object in one part, or in several swinging parts."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from sam2fast.training.data.synthetic.shapes import Shape, coverage, random_shape, rasterise
from sam2fast.training.data.synthetic.textures import Floats, Photograph, field, random_texture

Vector = NDArray[np.float64]

# Width in pixels of the transparent border of a sprite. Resampling mixes edge pixels with pixels of the border.
BORDER = 2


@dataclass(frozen=True)
class SpritePart:
    """Image of one part of a sprite, with the joint about which the part rotates back and forth."""

    image: Image.Image  # mode RGBX: colors that are not premultiplied, and alpha in the fourth channel
    pivot: Vector  # (2,) pixel position in ``image`` that is placed at the joint
    joint: Vector  # (2,) position of the joint, in pixels from the sprite's centre
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)  # oscillation about the joint: radians, turns per frame, phase
    angle: float = 0.0


Sprite = tuple[SpritePart, ...]  # parts from far to near


def one_part_sprite(image: Image.Image) -> Sprite:
    """Returns a sprite whose only part is ``image``, centered."""
    return (SpritePart(image, np.array(image.size) / 2, np.zeros(2)),)


def random_sprite(
    rng: np.random.Generator, area: float, max_side: float, near: Floats | None, photograph: Photograph | None
) -> Sprite:
    """Returns a procedural sprite: a random shape with a random texture.

    Args:
        area: area of the sprite, in pixels.
        max_side: maximum side of the sprite, in pixels.
        near: colors ``(N, 3)`` of the object's surroundings. The sprite's colors are similar to ``near``.
        photograph: function that draws a photograph for textures; None for none.
    """
    if rng.random() < 0.12:
        return _figure(rng, area, max_side, near, photograph)
    shape = random_shape(rng)
    side = min(max_side, np.sqrt(area / coverage(shape)))
    return one_part_sprite(_textured(rng, shape, max(8, round(side)), near, photograph))


def cutout_sprite(rng: np.random.Generator, image: Image.Image, area: float, max_side: float) -> Sprite:
    """Scales an RGBA cut-out to ``area`` pixels, flips it with probability 0.5, and changes or permutes its colors."""
    alpha = image.getchannel("A")
    covered = np.asarray(alpha.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=1.0)).mean() / 255
    scale = np.sqrt(area / max(1.0, covered * image.width * image.height))
    scale = min(scale, max_side / max(image.size))
    size = (max(4, round(scale * image.width)), max(4, round(scale * image.height)))
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        order = rng.permutation(3)
        channels = image.split()
        image = Image.merge("RGBA", [*(channels[i] for i in order), channels[3]])
    if rng.random() < 0.5:
        tones = [_curve(rng.uniform(0.7, 1.3), rng.uniform(-25, 25)) for _ in range(3)]
        image = image.point([*tones[0], *tones[1], *tones[2], *range(256)])
    return one_part_sprite(with_border(_bleed_colours(image), image.getchannel("A")))


def recolour_sprite(rng: np.random.Generator, sprite: Sprite) -> Sprite:
    """Returns the sprite in slightly different colors."""
    curve = [v for _ in range(3) for v in _curve(rng.uniform(0.85, 1.15), rng.uniform(-15, 15))] + list(range(256))
    return tuple(replace(part, image=part.image.point(curve)) for part in sprite)


def blur_sprite(sprite: Sprite, radius: float) -> Sprite:
    """Returns the sprite with a Gaussian blur, as if out of focus."""
    soft = ImageFilter.GaussianBlur(radius)
    return tuple(replace(part, image=part.image.filter(soft)) for part in sprite)


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
    return with_border(colours, alpha)


def _patches(rng: np.random.Generator, side: int) -> Image.Image:
    """Returns the mask of a sprite's second texture: a few pieces with sharp edges."""
    if rng.random() < 0.5:
        return rasterise(random_shape(rng), side)
    level = int(rng.integers(90, 180))
    return field(rng, (side, side)).point([255 * (v > level) for v in range(256)])


def _shaded(rng: np.random.Generator, colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Darkens colors towards the edge and on one side, as on a round object. Sometimes draws a dark outline."""
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
    rng: np.random.Generator, area: float, max_side: float, near: Floats | None, photograph: Photograph | None
) -> Sprite:
    """Returns a sprite of a body and limbs that swing about their joints."""
    body_shape = random_shape(rng)
    side = max(10, round(min(0.7 * max_side, np.sqrt(0.7 * area / coverage(body_shape)))))
    body = _textured(rng, body_shape, side, near, photograph)
    parts = [SpritePart(body, np.array(body.size) / 2, np.zeros(2))]
    pair = _limb(rng, side, near, photograph)
    first = rng.uniform(0, 7)
    for i in range(count := int(rng.integers(2, 6))):
        limb = pair if rng.random() < 0.7 else _limb(rng, side, near, photograph)
        direction = first + 2 * np.pi * i / count + rng.normal(0, 0.2)
        joint = side * rng.uniform(0.2, 0.38) * np.array([np.cos(direction), np.sin(direction)])
        swing = (rng.uniform(0.1, 0.8), rng.uniform(0.02, 0.12), rng.uniform(0, 7))
        pivot = np.array([limb.width * 0.15, limb.height / 2])
        part = SpritePart(limb, pivot, joint, swing, direction)
        parts.insert(0 if rng.random() < 0.6 else len(parts), part)
    return tuple(parts)


def _limb(rng: np.random.Generator, side: int, near: Floats | None, photograph: Photograph | None) -> Image.Image:
    """Returns the image of a limb that points to the right."""
    length = max(8, round(side * rng.uniform(0.4, 1)))
    image = _textured(rng, random_shape(rng), length, near, photograph)
    height = max(6, round(length * rng.uniform(0.25, 0.6)))
    colours, alpha = image.convert("RGB"), image.getchannel("X")
    return with_border(
        colours.resize((length, height), Image.Resampling.BILINEAR),
        alpha.resize((length, height), Image.Resampling.BILINEAR),
    )


def with_border(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Returns an RGBX image with a transparent border in the edge's colors, because resampling mixes pixels."""
    size = (colours.width + 2 * BORDER, colours.height + 2 * BORDER)
    wider = colours.resize(size, Image.Resampling.NEAREST)
    wider.paste(colours, (BORDER, BORDER))
    opacity = Image.new("L", size)
    opacity.paste(alpha, (BORDER, BORDER))
    return Image.merge("RGBX", [*wider.split(), opacity])


def _bleed_colours(image: Image.Image) -> Image.Image:
    """Returns the RGB channels of an RGBA image, with the object's colors extended slightly into transparent pixels."""
    premultiplied = image.convert("RGBa").filter(ImageFilter.BoxBlur(2))
    around = premultiplied.convert("RGBA").convert("RGB")
    around.paste(image.convert("RGB"), mask=image.getchannel("A").point([255 * (a > 8) for a in range(256)]))
    return around


def _curve(gain: float, offset: float) -> list[int]:
    return [int(min(255, max(0, 128 + gain * (v - 128) + offset))) for v in range(256)]
