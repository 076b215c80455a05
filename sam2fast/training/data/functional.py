"""Flips, resizes, pads, warps and recolors frames ``(T, H, W, 3)`` uint8 and masks ``(..., H, W)`` bool.

The resulting frames are equal to torchvision's results for PIL images, and masks to results for uint8 tensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from sam2fast.datasets.clip import Clip

Frames = NDArray[np.uint8]
Masks = NDArray[np.bool_]
_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def hflip(clip: Clip) -> Clip:
    """Flips the frames and masks of a clip horizontally."""
    frames, masks = np.ascontiguousarray(clip.frames[:, :, ::-1]), np.ascontiguousarray(clip.masks[..., ::-1])
    return replace(clip, frames=frames, masks=masks)


def resize(clip: Clip, size: tuple[int, int]) -> Clip:
    """Resizes the clip to ``size`` (height, width), with antialiasing."""
    return replace(clip, frames=resize_frames(clip.frames, size), masks=resize_masks(clip.masks, size))


def resize_frames(frames: Frames, size: tuple[int, int]) -> Frames:
    """Resizes frames ``(T, h, w, 3)`` to ``size`` (height, width) with PIL's bilinear filter."""
    if frames.shape[1:3] == size:
        return frames
    out = np.empty((len(frames), *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        out[i] = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    return out


def resize_masks(masks: Masks, size: tuple[int, int]) -> Masks:
    """Resizes masks ``(..., h, w)`` to ``size`` (height, width). Interpolated values above 0.5 become True."""
    if masks.shape[-2:] == size:
        return masks
    flat = masks.reshape(-1, *masks.shape[-2:])
    out = np.empty((len(flat), *size), dtype=np.bool_)
    for i, mask in enumerate(flat):  # resizes masks one by one, because float masks are large
        values = torch.from_numpy(mask[None, None].astype(np.float32))
        out[i] = F.interpolate(values, size=size, mode="bilinear", antialias=True)[0, 0].numpy() > 0.5
    return out.reshape(*masks.shape[:-2], *size)


def pad(clip: Clip, padding: Sequence[int]) -> Clip:
    """Pads a clip with black borders of ``(right, bottom)`` or ``(left, top, right, bottom)`` pixels."""
    if len(padding) not in (2, 4) or min(padding) < 0:
        raise ValueError(f"padding must be (right, bottom) or (left, top, right, bottom), at least 0, got {padding}")
    left, top, right, bottom = (0, 0, *padding) if len(padding) == 2 else padding
    frames = np.pad(clip.frames, ((0, 0), (top, bottom), (left, right), (0, 0)))
    masks = np.pad(clip.masks, ((0, 0), (0, 0), (top, bottom), (left, right)))
    return replace(clip, frames=frames, masks=masks)


@dataclass(frozen=True)
class Affine:
    """Rotation, shear and scaling about the image's centre, followed by a translation.

    Fields are defined as in ``torchvision.transforms.functional.affine``: angles are clockwise in degrees, ``shear``
    has angles along x and y, and ``translate`` is in pixels.
    """

    angle: float
    translate: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)

    def source_of(self, center: tuple[float, float]) -> tuple[float, float, float, float, float, float]:
        """Returns the matrix ``(a, b, c, d, e, f)`` from output positions to input positions around ``center``."""
        angle, (shear_x, shear_y) = math.radians(self.angle), map(math.radians, self.shear)
        # The forward matrix, rotation @ shear along y @ shear along x, has determinant 1. Inversion of the matrix thus
        # needs no division.
        xx = math.cos(angle - shear_y) / math.cos(shear_y)
        yx = math.sin(angle - shear_y) / math.cos(shear_y)
        xy = -xx * math.tan(shear_x) - math.sin(angle)
        yy = -yx * math.tan(shear_x) + math.cos(angle)
        a, b, d, e = (value / self.scale for value in (yy, -xy, -yx, xx))
        (center_x, center_y), (shift_x, shift_y) = center, self.translate
        x, y = -center_x - shift_x, -center_y - shift_y
        return a, b, a * x + b * y + center_x, d, e, d * x + e * y + center_y


def warp_frame(
    frame: Frames, affine: Affine, resampling: Image.Resampling, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Warps a frame ``(H, W, 3)`` with PIL. Pixels from outside the image get the color ``fill``."""
    height, width = frame.shape[:2]
    rows = affine.source_of((width * 0.5, height * 0.5))
    image = Image.fromarray(frame)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, rows, resampling, fillcolor=fill))


class MaskWarp:
    """Warps masks with nearest-neighbour sampling. The constructor computes the source pixels once for all masks."""

    def __init__(self, affine: Affine, height: int, width: int) -> None:
        # Uses float32 and grid_sample like torchvision, so that ties between pixels are resolved equally.
        x = torch.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width)
        y = torch.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height)
        columns, rows = torch.meshgrid(x, y, indexing="xy")
        positions = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).view(1, -1, 3)
        source = torch.tensor(affine.source_of((0.0, 0.0))).view(1, 2, 3).transpose(1, 2)
        grid = positions.bmm(source / torch.tensor((0.5 * width, 0.5 * height))).view(1, height, width, 2)
        # Warps an image whose pixel values are the pixels' coordinates, counted from 1. Coordinate 0 marks pixels
        # outside the image.
        image = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).float() + 1
        taken = F.grid_sample(image[None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0]
        self._inside = (taken[0] > 0).numpy()
        taken = taken.long()
        self._index = ((taken[1] - 1) * width + taken[0] - 1).clamp_(min=0).numpy()

    def __call__(self, masks: Masks) -> Masks:
        """Applies the affine transform to masks ``(..., H, W)``."""
        out = np.empty_like(masks)
        flat, out_flat = masks.reshape(-1, masks.shape[-2] * masks.shape[-1]), out.reshape(-1, *masks.shape[-2:])
        for mask, result in zip(flat, out_flat, strict=True):
            np.logical_and(mask.take(self._index), self._inside, out=result)
        return out


def adjust_brightness(frame: Frames, factor: float) -> Frames:
    """Blends the frame with black. Factor 0 gives a black frame, and factor 1 leaves the frame unchanged."""
    return _blend_with_grey(frame, 0, factor)


def adjust_contrast(frame: Frames, factor: float) -> Frames:
    """Blends a frame with the frame's mean grey level. Factor 0 gives a grey frame, and factor 1 leaves the frame."""
    grey = np.asarray(Image.fromarray(frame).convert("L"))
    return _blend_with_grey(frame, int(grey.mean() + 0.5), factor)


def adjust_saturation(frame: Frames, factor: float) -> Frames:
    """Blends a frame with the frame's grayscale version. Factor 0 gives grayscale, and factor 1 the unchanged frame."""
    return np.asarray(ImageEnhance.Color(Image.fromarray(frame)).enhance(factor))


def adjust_hue(frame: Frames, factor: float) -> Frames:
    """Rotates the hue of a frame by ``factor``, a fraction in [-0.5, 0.5] of the full circle."""
    hue, saturation, value = Image.fromarray(frame).convert("HSV").split()
    rotated = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # the uint8 sum wraps around at 256
    return np.asarray(Image.merge("HSV", (Image.fromarray(rotated), saturation, value)).convert("RGB"))


def to_grayscale(frame: Frames) -> Frames:
    """Converts a frame to grayscale with three equal channels."""
    return np.repeat(np.asarray(Image.fromarray(frame).convert("L"))[..., None], 3, axis=2)


def _blend_with_grey(frame: Frames, level: int, factor: float) -> Frames:
    # Makes a lookup table, so that PIL blends only the 256 possible pixel values.
    table = Image.blend(Image.new("L", _RAMP.size, level), _RAMP, factor)
    return np.asarray(Image.fromarray(frame).point(np.asarray(table)[0].tolist() * 3))
