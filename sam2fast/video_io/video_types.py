"""Errors of videos, and the frame type of streams."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.utils.errors import FixableError, requires

PROBE_SIZE = 32  # side of the model's input where only a video's own frames are read


class VideoError(FixableError, ValueError):
    """A video that cannot be used, or cannot be read."""


class NoFramesError(VideoError, RuntimeError):
    """A video without frames; also a ``RuntimeError``, which the original raises."""


def require_pyav(action: str = "reading") -> None:
    """Raises ``ImportError`` if PyAV, which decodes and encodes video files, is not installed."""
    with requires(f"{action} video files needs PyAV: pip install 'sam2fast[video]'"):
        import av  # noqa: F401


def check_size(index: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raises ``VideoError`` if the (height, width) of a frame differs from the video's."""
    if size != expected:
        raise VideoError(
            f"frame {index} is {size[1]}x{size[0]} pixels, but the video is {expected[1]}x{expected[0]}; "
            "frames must have one size: resize them, or cut the video there"
        )


class FramePixels(NamedTuple):
    """The pixels of a frame, converted on request; see :class:`StreamFrame`."""

    rgb: Callable[[], NDArray[np.uint8]]
    square: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A frame of a stream. Its pixels are converted at the first access and cached.

    Attributes:
        index: from 0, in presentation order.
        time: seconds since the first frame; None if unknown.
        height, width: of the video itself, upright, in pixels.
    """

    index: int
    time: float | None
    height: int
    width: int
    _pixels: FramePixels = field(repr=False)

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 at the video's own size, upright."""
        return self._pixels.rgb()

    @cached_property
    def square(self) -> Tensor:
        """``(S, S, 3)`` uint8 RGB on the CPU, identical to :meth:`Frames.pixels <sam2fast.video_io.Frames.pixels>`."""
        return self._pixels.square()
