"""Random transforms of clips, with the names and arguments of the official ``training.dataset.transforms``.

A transform takes a clip and a generator and returns a new clip. Transforms draw all random numbers from this generator.
Frames stay uint8 until they are normalized on the device, so that transfers need a quarter of the bytes of fp32.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from sam2fast.datasets.clip import Clip
from sam2fast.training.data.functional import (
    Affine,
    Frames,
    MaskWarp,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    hflip,
    pad,
    resize,
    resize_frames,
    resize_masks,
    to_grayscale,
    warp_frame,
)

__all__ = [
    "ColorJitter",
    "ComposeAPI",
    "NormalizeAPI",
    "RandomAffine",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomMosaicVideoAPI",
    "RandomResizeAPI",
    "ToTensorAPI",
    "Transform",
    "check_normalisation",
    "get_size_with_aspect_ratio",
    "hflip",
    "pad",
    "resize",
]

_log = logging.getLogger(__name__)

Transform: TypeAlias = Callable[[Clip, np.random.Generator], Clip]


class ComposeAPI:
    """Applies several transforms to a clip in order."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        for transform in self.transforms:
            clip = transform(clip, rng)
        return clip


class RandomHorizontalFlip:
    """Flips a clip horizontally with probability ``p``, or each frame separately if not ``consistent_transform``."""

    def __init__(self, consistent_transform: bool, p: float = 0.5) -> None:
        self.consistent_transform, self.p = consistent_transform, p

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        if self.consistent_transform:
            return hflip(clip) if rng.random() < self.p else clip
        flipped = hflip(clip)
        is_flipped = rng.random(len(clip.frames)) < self.p
        frames = np.where(is_flipped[:, None, None, None], flipped.frames, clip.frames)
        return replace(clip, frames=frames, masks=np.where(is_flipped[:, None, None, None], flipped.masks, clip.masks))


class RandomAffine:
    """Rotates, shears, scales and translates a clip at random, or each frame if ``consistent_transform`` is False.

    If an object's mask in the first frame becomes empty, a new transform is drawn. After ``num_tentatives`` such draws,
    the clip stays unchanged.

    Args:
        degrees: range of rotation angles in degrees, or the maximum angle.
        scale: range of scales; None for no scaling.
        translate: maximum shifts as fractions of width and height; None for no translation.
        shear: range of shear angles along x, or the maximum angle; four numbers are ranges along x and y; None for no
            shear.
        image_mean: RGB color that fills pixels from outside the frame.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        consistent_transform: bool,
        scale: Sequence[float] | None = None,
        translate: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        image_mean: Sequence[int] = (123, 116, 103),
        log_warning: bool = True,
        num_tentatives: int = 1,
        image_interpolation: str = "bicubic",
    ) -> None:
        if image_interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f'image_interpolation must be "bicubic" or "bilinear", got {image_interpolation!r}')
        self.degrees = _symmetric(degrees)
        self.shear = _symmetric(shear) if shear else None
        self.scale, self.translate, self.consistent_transform = scale, translate, consistent_transform
        red, green, blue = image_mean
        self.image_mean = (red, green, blue)
        self.log_warning, self.num_tentatives = log_warning, num_tentatives
        self._resampling = Image.Resampling[image_interpolation.upper()]

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        for _ in range(self.num_tentatives):
            changed = self._try(clip, rng)
            if changed is not None:
                return changed
        if self.log_warning:
            text = "%s: RandomAffine skipped, since an object would leave the first frame (%d tries)"
            _log.warning(text, clip.name, self.num_tentatives)
        return clip

    def _try(self, clip: Clip, rng: np.random.Generator) -> Clip | None:
        T, height, width, _ = clip.frames.shape
        affines = [self._draw(rng, height, width) for _ in range(1 if self.consistent_transform else T)]
        affines *= T // len(affines)
        warp = MaskWarp(affines[0], height, width)
        masks = np.empty_like(clip.masks)
        masks[0] = warp(clip.masks[0])
        if not masks[0].any(axis=(-2, -1)).all():
            return None
        for i in range(1, T):
            if not self.consistent_transform:
                warp = MaskWarp(affines[i], height, width)
            masks[i] = warp(clip.masks[i])
        frames = np.empty_like(clip.frames)
        for i, affine in enumerate(affines):
            frames[i] = warp_frame(clip.frames[i], affine, self._resampling, self.image_mean)
        return replace(clip, frames=frames, masks=masks)

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> Affine:
        angle = _uniform(rng, self.degrees)
        shift = (0.0, 0.0)
        if self.translate is not None:
            x, y = (part * size for part, size in zip(self.translate, (width, height), strict=True))
            shift = (float(round(rng.uniform(-x, x))), float(round(rng.uniform(-y, y))))
        scale = _uniform(rng, self.scale) if self.scale is not None else 1.0
        shear_x = shear_y = 0.0
        if self.shear is not None:
            shear_x = _uniform(rng, self.shear[:2])
            shear_y = _uniform(rng, self.shear[2:]) if len(self.shear) == 4 else 0.0
        return Affine(angle, shift, scale, (shear_x, shear_y))


class RandomResizeAPI:
    """Resizes the clip to one of ``sizes``, with antialiasing.

    Args:
        sizes: size or sizes of the shorter side, or of both sides if ``square`` is True, or ``(width, height)`` pairs.
        max_size: maximum length of the frame's longer side in pixels.
        v2: argument of the official class, ignored.
    """

    def __init__(
        self,
        sizes: int | Sequence[int | Sequence[int]],
        consistent_transform: bool,
        max_size: int | None = None,
        square: bool = False,
        v2: bool = False,
    ) -> None:
        self.sizes = [sizes] if isinstance(sizes, int) else list(sizes)
        if not self.sizes:
            raise ValueError("RandomResizeAPI needs at least one size, got none")
        self.max_size, self.square, self.consistent_transform = max_size, square, consistent_transform

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        T, height, width, _ = clip.frames.shape
        if self.consistent_transform:
            return resize(clip, self._draw(rng, height, width))
        drawn = [self._draw(rng, height, width) for _ in range(T)]
        if len(set(drawn)) != 1:
            raise ValueError(f"the frames of a clip must have one size, got {sorted(set(drawn))}: resize consistently")
        return resize(clip, drawn[0])

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        if not isinstance(size, int):
            return int(size[1]), int(size[0])
        return (size, size) if self.square else get_size_with_aspect_ratio((width, height), size, self.max_size)


def get_size_with_aspect_ratio(
    image_size: tuple[int, int], size: float, max_size: float | None = None
) -> tuple[int, int]:
    """Returns the image size ``(height, width)`` whose shorter side is ``size``.

    The longer side is at most ``max_size``.

    Args:
        image_size: image size ``(width, height)``.
    """
    width, height = image_size
    shorter, longer = min(image_size), max(image_size)
    if max_size is not None and longer / shorter * size > max_size:
        size = max_size * shorter / longer
    if shorter == size:
        return height, width
    if width < height:
        return int(round(size * height / width)), int(round(size))
    return int(round(size)), int(round(size * width / height))


class ColorJitter:
    """Jitters brightness, contrast, saturation and hue in random order, for each frame if not ``consistent_transform``.

    Args:
        brightness, contrast, saturation: range of factors, or maximum difference of factors from 1; None for no change.
        hue: range of rotations as fractions of the hue circle, or the maximum rotation; None for no change.
    """

    def __init__(
        self,
        consistent_transform: bool,
        brightness: float | Sequence[float] | None,
        contrast: float | Sequence[float] | None,
        saturation: float | Sequence[float] | None,
        hue: float | Sequence[float] | None,
    ) -> None:
        self.consistent_transform = consistent_transform
        limits = brightness, contrast, saturation
        self.brightness, self.contrast, self.saturation = (
            x if x is None or isinstance(x, Sequence) else [max(0.0, 1 - x), 1 + x] for x in limits
        )
        self.hue = None if hue is None else _symmetric(hue)
        if self.hue is not None and not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise ValueError(f"hue must lie within [-0.5, 0.5], got {self.hue}")

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        frames = np.empty_like(clip.frames)
        steps = self._draw(rng)
        for i, frame in enumerate(clip.frames):
            if i > 0 and not self.consistent_transform:
                steps = self._draw(rng)
            for change, factor in steps:
                frame = change(frame, factor)
            frames[i] = frame
        return replace(clip, frames=frames)

    def _draw(self, rng: np.random.Generator) -> list[tuple[Callable[[Frames, float], Frames], float]]:
        changes = (
            (adjust_brightness, self.brightness),
            (adjust_contrast, self.contrast),
            (adjust_saturation, self.saturation),
            (adjust_hue, self.hue),
        )
        order = rng.permutation(len(changes))
        return [(changes[i][0], _uniform(rng, bounds)) for i in order if (bounds := changes[i][1]) is not None]


class RandomGrayscale:
    """Converts a clip to grayscale with probability ``p``. Without ``consistent_transform``, draws for each frame."""

    def __init__(self, consistent_transform: bool, p: float = 0.5) -> None:
        self.consistent_transform, self.p = consistent_transform, p

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        T = len(clip.frames)
        is_grey = np.repeat(rng.random() < self.p, T) if self.consistent_transform else rng.random(T) < self.p
        if not is_grey.any():
            return clip
        frames = clip.frames.copy()
        for i in np.flatnonzero(is_grey):
            frames[i] = to_grayscale(frames[i])
        return replace(clip, frames=frames)


class RandomMosaicVideoAPI:
    """Tiles every frame with copies of itself, with probability ``prob``.

    Only one random tile keeps the objects' masks.

    Args:
        use_random_hflip: if True, flips each tile with probability 0.5, equally in all frames.
    """

    def __init__(self, prob: float = 0.15, grid_h: int = 2, grid_w: int = 2, use_random_hflip: bool = False) -> None:
        self.prob, self.grid_h, self.grid_w, self.use_random_hflip = prob, grid_h, grid_w, use_random_hflip

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        if rng.random() > self.prob:
            return clip
        target = int(rng.integers(self.grid_h)), int(rng.integers(self.grid_w))
        flips = np.zeros((self.grid_h, self.grid_w), dtype=np.bool_)
        if self.use_random_hflip:
            flips[:] = rng.random(flips.shape) < 0.5
        frames, masks = np.empty_like(clip.frames), np.zeros_like(clip.masks)
        height, width = clip.frames.shape[1:3]
        tiles: dict[tuple[int, int], Frames] = {}  # tiles have several sizes if the grid does not divide the frame
        for tile in np.ndindex(self.grid_h, self.grid_w):
            (top, bottom), (left, right) = _part(height, self.grid_h, tile[0]), _part(width, self.grid_w, tile[1])
            size = bottom - top, right - left
            if size not in tiles:
                tiles[size] = resize_frames(clip.frames, size)
            step = -1 if flips[tile] else 1
            frames[:, top:bottom, left:right] = tiles[size][:, :, ::step]
            if tile == target:
                masks[..., top:bottom, left:right] = resize_masks(clip.masks, size)[..., ::step]
        return replace(clip, frames=frames, masks=masks)


class ToTensorAPI:
    """Does nothing. :func:`collate` converts clips to tensors, and the model converts uint8 to float on the device."""

    def __init__(self, v2: bool = False) -> None:
        pass

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        return clip


class NormalizeAPI:
    """Does nothing, because the model normalizes frames. :func:`check_normalisation` compares ``mean`` and ``std``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], v2: bool = False) -> None:
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        return clip


def check_normalisation(part: Any, mean: Sequence[float], std: Sequence[float]) -> None:
    """Compares mean and std of the model with every :class:`NormalizeAPI` in a data set or a data set that it wraps.

    Raises:
        ValueError: If mean or std of a transform differ from the model's mean or std.
    """
    if isinstance(part, NormalizeAPI) and (part.mean, part.std) != (mean, std):
        raise ValueError(
            f"the model has mean {mean} and std {std}, but NormalizeAPI has {part.mean} and {part.std}; "
            "use the same values for both"
        )
    for name in ("dataset", "datasets", "transforms"):
        inner = getattr(part, name, ())
        for one in inner if isinstance(inner, list | tuple) else [inner]:
            check_normalisation(one, mean, std)


def _uniform(rng: np.random.Generator, bounds: Sequence[float]) -> float:
    low, high = bounds
    return rng.uniform(low, high)


def _symmetric(value: float | Sequence[float]) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [-value, value]


def _part(size: int, parts: int, number: int) -> tuple[int, int]:
    return number * size // parts, (number + 1) * size // parts
