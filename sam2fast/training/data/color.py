"""Changes of colour of a frame ``(H, W, 3)`` uint8 RGB, to the level as torchvision makes them on PIL images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

Frame = NDArray[np.uint8]
_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def adjust_brightness(frame: Frame, factor: float) -> Frame:
    """Mixed with black: 0 is black, 1 the frame."""
    return _mix_with_grey_level(frame, 0, factor)


def adjust_contrast(frame: Frame, factor: float) -> Frame:
    """Mixed with its mean grey: 0 is grey, 1 the frame."""
    grey = np.asarray(Image.fromarray(frame).convert("L"))
    return _mix_with_grey_level(frame, int(grey.mean() + 0.5), factor)


def adjust_saturation(frame: Frame, factor: float) -> Frame:
    """Mixed with its grey version: 0 is grey, 1 the frame."""
    return np.asarray(ImageEnhance.Color(Image.fromarray(frame)).enhance(factor))


def adjust_hue(frame: Frame, factor: float) -> Frame:
    """The hue turned by ``factor`` of the circle, in [-0.5, 0.5]."""
    hue, saturation, value = Image.fromarray(frame).convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # wraps around, as hues do
    return np.asarray(Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB"))


def to_grayscale(frame: Frame) -> Frame:
    """Its luma in all three channels."""
    return np.repeat(np.asarray(Image.fromarray(frame).convert("L"))[..., None], 3, axis=2)


def _mix_with_grey_level(frame: Frame, level: int, factor: float) -> Frame:
    # The same for every pixel of a value, so PIL need mix 256 of them only.
    table = Image.blend(Image.new("L", _RAMP.size, level), _RAMP, factor)
    return np.asarray(Image.fromarray(frame).point(np.asarray(table)[0].tolist() * 3))
