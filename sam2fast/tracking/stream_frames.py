"""The current frame of a stream, which takes the place of a video's frames."""

from typing import TypeAlias

import torch
from torch import Tensor

from sam2fast.transforms import ImageLike
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.reading import StreamFrame
from sam2fast.video_io.sources import resized, to_rgb_image
from sam2fast.video_io.video_types import VideoError

FrameLike: TypeAlias = ImageLike | StreamFrame


class StreamFrames(Frames):
    """Holds one frame at a time.

    Args:
        length: how many frames there will be, or more.
        image_size: side S of the model's square input.
        device: where frames are returned.
    """

    truncated: str | None = None

    def __init__(self, length: int, image_size: int, device: torch.device) -> None:
        # Without super().__init__(): there is no source to read from.
        self.height, self.width = 0, 0
        self.device = device
        self._length, self._image_size = length, image_size
        self.current: int | None = None
        self._square: Tensor | None = None

    def prepared(self, frame: FrameLike) -> tuple[Tensor, int, int]:
        """A frame's pixels ``(S, S, 3)`` uint8, its height and width; the current frame does not change.

        Images are resized as those of a list are, so that masks are the same.

        Raises:
            VideoError: the frame cannot be used, or its size is not that of the frames before.
            TypeError, FileNotFoundError: see :func:`~sam2fast.transforms.to_pixels`.
        """
        if isinstance(frame, StreamFrame):
            square, height, width = frame.square, frame.height, frame.width
            if square.shape != (self._image_size, self._image_size, 3):
                raise VideoError(
                    f"the frame was read for a model of input size {square.shape[0]}; this one takes {self._image_size}"
                )
        else:
            image = to_rgb_image(frame, 0 if self.current is None else self.current + 1)
            height, width = image.height, image.width
            square = resized(image, self._image_size)
        if self.current is not None and (height, width) != (self.height, self.width):
            raise VideoError(
                f"the frame is {width}x{height} pixels, but the stream is {self.width}x{self.height}; "
                "resize the frame, or open another stream"
            )
        return square, height, width

    @property
    def current_frame(self) -> tuple[int | None, tuple[Tensor | None, int, int]]:
        """The current frame, as :meth:`set_frame` takes it."""
        return self.current, (self._square, self.height, self.width)

    def set_frame(self, index: int | None, frame: tuple[Tensor | None, int, int]) -> None:
        """Makes a prepared frame the current one."""
        self.current, (self._square, self.height, self.width) = index, frame

    def pixels(self, index: int) -> Tensor:
        """The current frame as ``(S, S, 3)`` uint8."""
        if self._square is None or self._rank(index) != self.current:
            raise VideoError(f"frame {index} is not at hand: a stream has only its current frame, {self.current}")
        return self._square

    def close(self) -> None:
        self._square = None
