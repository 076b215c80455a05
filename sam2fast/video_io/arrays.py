"""Images and arrays of any type as 8-bit RGB images."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sam2fast.io.images import IMAGE_READ_ERRORS, open_image, warn_if_colours_are_lost
from sam2fast.transforms import ImageError, ImageLike, to_pixels
from sam2fast.video_io.video_types import VideoError

Window: TypeAlias = tuple[float, float]  # the values that become black and white


def check_window(window: Window | None) -> None:
    """Raises ``ValueError`` if the window is no pair of ascending numbers."""
    if window is None:
        return
    values = np.asarray(window)
    if values.shape != (2,) or values.dtype.kind not in "iuf" or not values[0] < values[1]:
        raise ValueError(f"window is {window!r}; expected (low, high), the values that become black and white")


def _windowed(image: ImageLike, window: Window) -> np.ndarray | Tensor:
    """An image as fp32 in [0, 1]: 0 up to the window's low value, 1 from its high one on."""
    if not isinstance(image, Image.Image | np.ndarray | Tensor):
        image = _decoded(image)
    if isinstance(image, Image.Image):
        image = np.asarray(image if is_deep(image) else image.convert("RGB"))
    values = image.float() if isinstance(image, Tensor) else image.astype(np.float32)
    return ((values - window[0]) / (window[1] - window[0])).clip(0, 1)


def _decoded(file: str | Path | bytes | BinaryIO) -> Image.Image:
    try:
        with open_image(BytesIO(file) if isinstance(file, bytes) else file) as image:
            warn_if_colours_are_lost(image)
            return ImageOps.exif_transpose(image) or image
    except FileNotFoundError:
        raise
    except IMAGE_READ_ERRORS as error:
        raise ImageError(f"it cannot be read as an image: {error}") from error


def to_rgb_image(image: ImageLike, index: int, window: Window | None = None) -> Image.Image:
    """An 8-bit RGB copy of an image that :func:`~sam2fast.transforms.to_pixels` accepts.

    Args:
        window: the values that become 0 and 255; then arrays and files may have any values.

    Raises:
        VideoError, TypeError: it cannot be used; the message names the frame.
        FileNotFoundError: it is a path, and there is no such file.
    """
    try:
        pixels = to_pixels(image if window is None else _windowed(image, window))
    except ImageError as error:
        advice = "; window=(low, high) of init_state maps other values" if window is None and is_deep(image) else ""
        raise VideoError(f"frame {index}: {error}{advice}") from error
    except TypeError as error:
        raise TypeError(f"frame {index}: {error}") from error
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().byte()
    return Image.fromarray(pixels.cpu().numpy())


def resized(image: Image.Image, size: int) -> Tensor:
    """An RGB image as ``(size, size, 3)`` uint8, by PIL's default filter, which the original relies on."""
    return torch.from_numpy(np.array(image.resize((size, size))))


def is_deep(image: ImageLike) -> bool:
    """Whether an image has more than 8 bits."""
    if isinstance(image, Image.Image):
        return image.mode in ("I", "F") or image.mode.startswith("I;16")
    return isinstance(image, np.ndarray | Tensor) and image.dtype not in (np.uint8, torch.uint8)


class ArrayFrames(Sequence[ImageLike]):
    """The frames of one array or tensor: ``(T, H, W)`` grey, ``(T, H, W, 3)`` or ``(T, 3, H, W)`` RGB.

    uint8, or floating-point in [0, 1]; with a window any type.

    Attributes:
        is_plain: whether the array is none of a user's own class.

    Raises:
        VideoError: another shape or dtype.
    """

    def __init__(self, video: np.ndarray | Tensor, window: Window | None = None) -> None:
        self.is_plain = type(video) in (np.ndarray, np.memmap, Tensor)
        shape = tuple(video.shape)
        is_grey = len(shape) == 3 and shape[-1] not in (3, 4)  # which would be one image
        if not is_grey and not (len(shape) == 4 and 3 in (shape[1], shape[3])):
            raise VideoError(f"the video has shape {shape}; expected (T, H, W), (T, H, W, 3) or (T, 3, H, W)")
        kind = video.dtype
        is_float = kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f"
        if window is None and not is_float and kind not in (np.uint8, torch.uint8):
            raise VideoError(
                f"the video is {kind}; expected uint8, or floats in [0, 1]; for other values pass "
                "window=(low, high) to init_state, the values that become black and white"
            )
        self._video = video if is_grey or shape[3] == 3 else _channels_last(video)

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's two overloads
        frame = self._video[index]
        if not isinstance(frame, Tensor):
            return frame
        # An array: the first dimension of a small tensor could be mistaken for channels.
        frame = frame.detach().cpu()
        return (frame.float() if frame.is_floating_point() else frame).numpy()


def _channels_last(video: np.ndarray | Tensor) -> np.ndarray | Tensor:
    return video.permute(0, 2, 3, 1) if isinstance(video, Tensor) else video.transpose(0, 2, 3, 1)
