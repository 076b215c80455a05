"""Flips, resizes, pads and warps of frames ``(T, H, W, 3)`` uint8 and masks ``(..., H, W)`` bool, to the pixel as
torchvision's functions do them on PIL images and on uint8 masks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from sam2fast.training.data.clip import Clip

Frames = NDArray[np.uint8]
Masks = NDArray[np.bool_]


def hflip(clip: Clip) -> Clip:
    """Left and right exchanged."""
    frames, masks = np.ascontiguousarray(clip.frames[:, :, ::-1]), np.ascontiguousarray(clip.masks[..., ::-1])
    return replace(clip, frames=frames, masks=masks)


def resize(clip: Clip, size: tuple[int, int]) -> Clip:
    """Every frame and mask as ``(height, width)`` pixels, with antialiasing."""
    return replace(clip, frames=resize_frames(clip.frames, size), masks=resize_masks(clip.masks, size))


def resize_frames(frames: Frames, size: tuple[int, int]) -> Frames:
    """``(T, h, w, 3)``, by PIL's bilinear filter."""
    if frames.shape[1:3] == size:
        return frames
    out = np.empty((len(frames), *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        out[i] = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    return out


def resize_masks(masks: Masks, size: tuple[int, int]) -> Masks:
    """``(..., h, w)``: True where the filtered mask is above a half."""
    if masks.shape[-2:] == size:
        return masks
    flat = masks.reshape(-1, *masks.shape[-2:])
    out = np.empty((len(flat), *size), dtype=np.bool_)
    for i, mask in enumerate(flat):  # one by one: as floats, all of them would be large
        values = torch.from_numpy(mask[None, None].astype(np.float32))
        out[i] = F.interpolate(values, size=size, mode="bilinear", antialias=True)[0, 0].numpy() > 0.5
    return out.reshape(*masks.shape[:-2], *size)


def pad(clip: Clip, padding: Sequence[int]) -> Clip:
    """Black, empty borders: ``(right, bottom)`` or ``(left, top, right, bottom)`` pixels."""
    if len(padding) not in (2, 4) or min(padding) < 0:
        raise ValueError(f"padding must be (right, bottom) or (left, top, right, bottom), at least 0, got {padding}")
    left, top, right, bottom = (0, 0, *padding) if len(padding) == 2 else padding
    frames = np.pad(clip.frames, ((0, 0), (top, bottom), (left, right), (0, 0)))
    masks = np.pad(clip.masks, ((0, 0), (0, 0), (top, bottom), (left, right)))
    return replace(clip, frames=frames, masks=masks)


@dataclass(frozen=True)
class Affine:
    """A rotation, shear and scaling about the picture's centre, then a translation.

    Angles are in degrees, clockwise; the shear is along x and y, the translation in pixels, as in
    ``torchvision.transforms.functional.affine``.
    """

    angle: float
    translate: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)

    def source_of(self, center: tuple[float, float]) -> tuple[float, float, float, float, float, float]:
        """Rows ``(a, b, c, d, e, f)`` that send an output position to its input position, both about ``center``."""
        angle, (shear_x, shear_y) = math.radians(self.angle), map(math.radians, self.shear)
        # Forward: rotation @ shear along y @ shear along x, all of determinant 1; its inverse needs no division.
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
    """A frame ``(H, W, 3)`` warped by PIL; ``fill`` where there is nothing."""
    height, width = frame.shape[:2]
    rows = affine.source_of((width * 0.5, height * 0.5))
    image = Image.fromarray(frame)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, rows, resampling, fillcolor=fill))


class MaskWarp:
    """Warps masks by the nearest pixel; where from is found once for all of them."""

    def __init__(self, affine: Affine, height: int, width: int) -> None:
        # In float32 and by grid_sample, as torchvision: elsewhere, ties between pixels would go another way.
        x = torch.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width)
        y = torch.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height)
        columns, rows = torch.meshgrid(x, y, indexing="xy")
        positions = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).view(1, -1, 3)
        source = torch.tensor(affine.source_of((0.0, 0.0))).view(1, 2, 3).transpose(1, 2)
        grid = positions.bmm(source / torch.tensor((0.5 * width, 0.5 * height))).view(1, height, width, 2)
        # A picture of its own coordinates, from 1, tells which pixel was taken; 0 is outside.
        picture = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).float() + 1
        taken = F.grid_sample(picture[None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0]
        self._inside = (taken[0] > 0).numpy()
        taken = taken.long()
        self._index = ((taken[1] - 1) * width + taken[0] - 1).clamp_(min=0).numpy()

    def __call__(self, masks: Masks) -> Masks:
        """Masks ``(..., H, W)``, warped."""
        out = np.empty_like(masks)
        flat, out_flat = masks.reshape(-1, masks.shape[-2] * masks.shape[-1]), out.reshape(-1, *masks.shape[-2:])
        for mask, result in zip(flat, out_flat, strict=True):
            np.logical_and(mask.take(self._index), self._inside, out=result)
        return out
