"""Defines the exceptions of videos, and the frame type of streams."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.transforms import FileLike
from sam2fast.utils.errors import FixableError, requires

PROBE_SIZE = 32  # side of the model's input if only frames at the video's size are read


class VideoError(FixableError, ValueError):
    """Raised if a video is invalid or cannot be read."""


class NoFramesError(VideoError, RuntimeError):
    """Raised if a video has no frames. The class is also a ``RuntimeError``, as in the official package."""


@dataclass(frozen=True)
class ToneMapped:
    """Argument of ``open_frames`` and ``read_frames``: a video file with HDR frames mapped to standard dynamic range.

    Frames of other videos are unchanged. Needs PyAV 16 or later. The preparation takes seconds of processor time.

    Attributes:
        video: Path, bytes, or binary file object.
    """

    video: FileLike


def require_pyav(action: str = "reading") -> None:
    """Raises ``ImportError`` if PyAV, which decodes and encodes video files, is not installed."""
    with requires(f"{action} video files needs PyAV: pip install 'sam2fast[video]'"):
        import av  # noqa: F401


def check_size(index: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raises ``VideoError`` if the (height, width) of a frame differs from the size of the video."""
    if size != expected:
        raise VideoError(
            f"frame {index} is {size[1]}x{size[0]} pixels, but the video is {expected[1]}x{expected[0]}; "
            "all frames must have the same size: resize them, or cut the video there"
        )


class FramePixels(NamedTuple):
    """Stores functions that return the pixels of a frame. See :class:`StreamFrame`."""

    rgb: Callable[[], NDArray[np.uint8]]
    square: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """Frame of a stream. Pixels are converted at the first access and cached.

    Attributes:
        index: Index in presentation order, from 0.
        time: Seconds since the first frame, or None if the time is unknown.
        height, width: Size of the video in pixels, upright.
    """

    index: int
    time: float | None
    height: int
    width: int
    _pixels: FramePixels = field(repr=False)

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """Pixels ``(H, W, 3)`` uint8 RGB at the video's size, upright."""
        return self._pixels.rgb()

    @cached_property
    def square(self) -> Tensor:
        """Pixels ``(S, S, 3)`` uint8 RGB on the CPU, as :meth:`Frames.pixels <sam2fast.video_io.Frames.pixels>`."""
        return self._pixels.square()
