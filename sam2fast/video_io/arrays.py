"""Converts images and arrays of any type to 8-bit RGB images."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam2fast.io.image_files import FileImage, as_rgb
from sam2fast.io.images import IMAGE_READ_ERRORS
from sam2fast.io.value_scale import Scale, choose_scale
from sam2fast.transforms import CHANNELS, ImageError, ImageLike, is_file, read_file_image, to_pixels
from sam2fast.video_io.video_types import VideoError

ARRAY_SHAPES = "(T, H, W), (T, H, W, 3) or (T, 3, H, W), or 1 or 4 channels in the place of 3"
Window: TypeAlias = tuple[float, float]  # values (low, high) that become black and white
MOST_SAMPLED = 16  # maximum number of frames that determine the scale of a video

_CHOOSING = threading.Lock()
_log = logging.getLogger(__name__)


def check_window(window: Window | None) -> None:
    """Raises ``ValueError`` unless ``window`` is None or a pair of ascending numbers."""
    if window is None:
        return
    values = np.asarray(window)
    if values.shape != (2,) or values.dtype.kind not in "iuf" or not values[0] < values[1]:
        raise ValueError(f"window is {window!r}; expected (low, high), the values that become black and white")


class FrameScale:
    """Determines the scale of a video's image files, from a window or from evenly spaced frames. Thread-safe.

    Args:
        window: Values (low, high) that become black and white, or None.
        name: Name of the video for messages.
        count: Number of frames. If 0, the first requested frame determines the scale.
        read: Function that reads a frame, and returns None if the frame is not a file.

    Attributes:
        choices: Choices of the first frame that has choices. See :meth:`~sam2fast.io.image_files.FileImage.choices`.
    """

    def __init__(
        self,
        window: Window | None,
        name: str = "the images",
        count: int = 0,
        read: Callable[[int], FileImage | None] | None = None,
    ) -> None:
        self.window, self._name, self._count, self._read = window, name, count, read
        self._found: list[Scale | None] = []
        self.choices: dict[str, Any] = {}

    def of(self, image: FileImage) -> Scale | None:
        """Returns the scale for an image, or None if the image's values are used unchanged."""
        if self.window is not None:
            return Scale(*self.window)
        with _CHOOSING:
            if image.values.dtype == np.uint8:
                self._note_choices(image, None)
                return None
            if not self._found:
                samples = [] if image.is_linear else self._samples()
                self._found.append(choose_scale(np.concatenate(samples)) if samples else image.own_scale())
                self._note_choices(image, self._found[0])
            return self._found[0]

    def _samples(self) -> list[NDArray[np.generic]]:
        samples: list[NDArray[np.generic]] = []
        for index in np.unique(np.linspace(0, self._count - 1, min(self._count, MOST_SAMPLED)).astype(int)):
            try:
                image = self._read(int(index)) if self._read else None
            except (ImageError, FileNotFoundError, *IMAGE_READ_ERRORS):
                continue  # a request for the frame raises the error again
            if image is not None and image.values.dtype != np.uint8:
                samples.append(image.samples())
        return samples

    def _note_choices(self, frame: FileImage, scale: Scale | None) -> None:
        if not self.choices:
            self.choices.update(frame.choices(scale))
        if note := frame.note(scale):
            log_once(f"{self._name}: a frame {note}" + ("; all frames have this scale" if scale else ""))


LOGGED: set[str] = set()  # messages that were logged, or that a command reports itself


def log_once(text: str) -> None:
    """Logs a warning on the first call with this text."""
    if text not in LOGGED:
        LOGGED.add(text)
        _log.warning("%s", text)


def _windowed(image: Any, window: Window) -> np.ndarray | Tensor:
    """Maps the values of an array, tensor or PIL image from the window to [0, 1], clipped, in fp32."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if is_deep(image) else image.convert("RGB"))
    values = image.float() if isinstance(image, Tensor) else image.astype(np.float32)
    return ((values - window[0]) / (window[1] - window[0])).clip(0, 1)


def to_rgb_image(image: ImageLike, index: int, scale: FrameScale | None = None) -> Image.Image:
    """Converts an image of any type of :func:`~sam2fast.transforms.to_pixels` to an 8-bit RGB copy.

    Args:
        index: Number of the frame for messages.
        scale: Scale of the video. If None, a file is scaled to its own range. If the scale has a window, arrays may
            have any values.

    Raises:
        VideoError, TypeError: If the image is invalid. The error message names the frame.
        FileNotFoundError: If the image is a path that does not exist.
    """
    window = None if scale is None else scale.window
    try:
        if is_file(image):
            stored = read_file_image(image)
            return Image.fromarray(as_rgb(stored, stored.own_scale() if scale is None else scale.of(stored)))
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
    """Resizes an RGB image to ``(size, size, 3)`` uint8 with PIL's default filter, as in the official package."""
    return torch.from_numpy(np.array(image.resize((size, size))))


def is_deep(image: ImageLike) -> bool:
    """Returns True if an image in memory has values of more than 8 bits."""
    if isinstance(image, Image.Image):
        return image.mode in ("I", "F") or image.mode.startswith("I;16")
    return isinstance(image, np.ndarray | Tensor) and image.dtype not in (np.uint8, torch.uint8)


class ArrayFrames(Sequence[ImageLike]):
    """Sequence of the frames of an array or tensor: ``(T, H, W)`` grey, ``(T, H, W, C)`` or ``(T, C, H, W)``.

    C is 1 (grey), 3 (RGB) or 4 (RGBA, where alpha is dropped). ``(T, C, H, W)`` is allowed for tensors, and for arrays
    if C is 3. Values are uint8, or floating-point in [0, 1]. If there is a window, values may have any type.

    Attributes:
        is_plain: False if the array is of a custom class.

    Raises:
        VideoError: If the shape or dtype is not supported.
    """

    def __init__(self, video: np.ndarray | Tensor, window: Window | None = None) -> None:
        self.is_plain = type(video) in (np.ndarray, np.memmap, Tensor)
        shape = tuple(video.shape)
        is_grey = len(shape) == 3 and shape[-1] not in CHANNELS  # otherwise the array is one image
        is_last = len(shape) == 4 and shape[3] in CHANNELS
        first = CHANNELS if isinstance(video, Tensor) else (3,)  # as in `to_pixels`
        if not (is_grey or is_last or (len(shape) == 4 and shape[1] in first)):
            raise VideoError(f"the video has shape {shape}; expected {ARRAY_SHAPES}")
        dtype = video.dtype
        is_float = dtype.is_floating_point if isinstance(dtype, torch.dtype) else dtype.kind == "f"
        if window is None and not is_float and dtype not in (np.uint8, torch.uint8):
            raise VideoError(
                f"the video is {dtype}; expected uint8, or floats in [0, 1]; for other values pass "
                "window=(low, high) to init_state, the values that become black and white"
            )
        if not (is_grey or is_last):
            video = video.permute(0, 2, 3, 1) if isinstance(video, Tensor) else video.transpose(0, 2, 3, 1)
        self._video = video

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's two overloads
        frame = self._video[index]
        if not isinstance(frame, Tensor):
            return frame
        # Converts to an array, since the first dimension of a small tensor could be mistaken for channels.
        frame = frame.detach().cpu()
        return (frame.float() if frame.is_floating_point() else frame).numpy()
