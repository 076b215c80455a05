"""One frame of a video that is read forwards."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Picture(Protocol):
    """What a frame shows, in the form in which its source has it."""

    def rgb(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 at the video's own size, upright."""
        ...

    def square(self) -> Tensor:
        """``(S, S, 3)`` uint8 RGB on the CPU, as the model takes it."""
        ...


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A frame; its pixels are converted when they are first asked for, and kept as long as it is.

    Attributes:
        index: 0, 1, ... in the order in which frames are shown.
        time: seconds since the first frame; None if the source does not say.
        height, width: of the video itself, upright, in pixels.
    """

    index: int
    time: float | None
    height: int
    width: int
    _picture: Picture = field(repr=False)

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 at the video's own size, upright."""
        return self._picture.rgb()

    @cached_property
    def square(self) -> Tensor:
        """``(S, S, 3)`` uint8 RGB on the CPU: the bits of :meth:`Frames.pixels <sam2fast.video_io.Frames.pixels>`."""
        return self._picture.square()
