"""Represents a video as a sequence of model inputs."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sam2fast.kernels.preprocess import MEAN, STD, resize_and_normalise
from sam2fast.transforms import ImageLike
from sam2fast.video_io.arrays import FrameScale, resized, to_rgb_image
from sam2fast.video_io.frame_cache import FrameCache, Prefetcher
from sam2fast.video_io.sources import Source
from sam2fast.video_io.video_types import StreamFrame, VideoError

FrameLike: TypeAlias = ImageLike | StreamFrame


class Frames:
    """Frames of a video, decoded on access. Thread-safe.

    Replaces the tensor ``inference_state["images"]`` of the official package: supports ``len``, ``shape``, ``dtype``,
    iteration, and indexing by integers and slices. Created by :func:`~sam2fast.video_io.open_frames`.

    Attributes:
        height, width: Size of the video in pixels.
        device: Device of the tensors that ``self[index]`` returns.
        rate: Average frames per second of a video file, if known.
        truncated: Sentence on frames that are known to be missing after the last frame, such as "clip.mp4: read 200 of
            about 300 frames; the rest of the file is damaged or missing". None if no frame is known to be missing.
        choices: Page, bands and scale of image files as JSON, each only if there were several possibilities. Filled
            when frames are read.
        mean, std: Mean and standard deviation of pixels in [0, 1], for normalization. A session sets ``mean`` and
            ``std`` to the model's values.
    """

    dtype = torch.float32
    rate: float | None = None
    truncated: str | None = None
    choices: Mapping[str, Any] = MappingProxyType({})
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __init__(
        self, source: Source, image_size: int, device: torch.device | str = "cpu", prefetch: bool = False
    ) -> None:
        self.height, self.width = source.height, source.width
        self.rate, self.truncated, self.choices = source.rate, source.truncated, source.choices
        self._source = source
        self.device = torch.device(device)
        self._length, self._image_size = len(source), image_size
        self._cache = FrameCache(source, pinned=self.device.type == "cuda", has_pool=prefetch)
        self._prefetcher = Prefetcher(self._cache) if prefetch else None

    @property
    def shape(self) -> torch.Size:
        """Shape ``(N, 3, S, S)``."""
        return torch.Size((self._length, 3, self._image_size, self._image_size))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(self._length))

    def __getitem__(self, index: int | slice) -> Tensor:
        """Returns a frame ``(3, S, S)`` fp32 on ``device``, normalized with :attr:`mean` and :attr:`std`.

        For a slice, returns a tensor ``(N, 3, S, S)``.

        Raises:
            IndexError: If the index is out of range.
            VideoError: If the frame cannot be read, or the video was closed. Other frames may still be readable.
            FileNotFoundError, TypeError: If the frame of a list of images cannot be read.
        """
        if isinstance(index, slice):
            frames = [self._model_input(i) for i in range(self._length)[index]]
            return torch.stack(frames) if frames else torch.empty((0, *self.shape[1:]), device=self.device)
        return self._model_input(index)

    def _model_input(self, index: int) -> Tensor:
        pixels = self.pixels(index).to(self.device)[None]
        size = (self._image_size, self._image_size)
        return resize_and_normalise(pixels, size, self.mean, self.std, white=255.0)[0]

    def pixels(self, index: int) -> Tensor:
        """Returns a frame as ``(S, S, 3)`` uint8 RGB on the CPU. The cached tensor must not be modified."""
        pixels = self._cache.get(self._rank(index))
        if self._prefetcher is not None:
            self._prefetcher.follow()
        return pixels

    def time(self, index: int) -> float | None:
        """Returns the seconds from the first frame to this frame, or None if the source has no timestamps.

        Raises:
            IndexError: If the index is out of range.
        """
        return self._source.time(self._rank(index))

    def close(self) -> None:
        """Closes files, drops cached frames and ends prefetching. Further calls have no effect."""
        if self._prefetcher is not None:
            self._prefetcher.stop()
        self._cache.close()

    def __copy__(self) -> "Frames":
        other = Frames.__new__(Frames)
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> "Frames":
        return self  # copies of a session share the video

    def __reduce__(self) -> tuple[object, ...]:
        arguments = self._source, self._image_size, self.device, self._prefetcher is not None
        return Frames, arguments, {"mean": self.mean, "std": self.std}

    def _rank(self, index: int) -> int:
        number = operator.index(index)
        if not -self._length <= number < self._length:
            raise IndexError(
                f"frame {number} of a video of {self._length} frames; expected {-self._length} to {self._length - 1}"
            )
        return number % self._length


class CurrentFrame(Frames):
    """Frames of a stream of at most ``length`` frames. Only the current frame is available."""

    truncated: str | None = None

    def __init__(self, length: int, image_size: int, device: torch.device) -> None:
        # Does not call super().__init__(), since there is no source to read from.
        self.height, self.width = 0, 0
        self.device = device
        self._length, self._image_size = length, image_size
        self.current: int | None = None
        self._square: Tensor | None = None
        self._scale = FrameScale(None)

    def prepared(self, frame: FrameLike) -> tuple[Tensor, int, int]:
        """Returns pixels ``(S, S, 3)`` uint8, height and width of a frame. Images are resized as in lists of images.

        Raises the errors of :func:`to_rgb_image`, and ``VideoError`` if the size differs from previous frames.
        """
        if isinstance(frame, StreamFrame):
            square, height, width = frame.square, frame.height, frame.width
            if square.shape != (self._image_size, self._image_size, 3):
                raise VideoError(
                    f"the frame was read for a model of input size {square.shape[0]}; this one takes {self._image_size}"
                )
        else:
            image = to_rgb_image(frame, 0 if self.current is None else self.current + 1, self._scale)
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
        """Arguments of :meth:`set_frame` for the current frame."""
        return self.current, (self._square, self.height, self.width)

    def set_frame(self, index: int | None, frame: tuple[Tensor | None, int, int]) -> None:
        """Sets the current frame to a result of :meth:`prepared`."""
        self.current, (self._square, self.height, self.width) = index, frame

    def pixels(self, index: int) -> Tensor:
        """Returns the current frame as ``(S, S, 3)`` uint8. Raises ``VideoError`` for other frames."""
        if self._square is None or self._rank(index) != self.current:
            raise VideoError(f"frame {index} is not available: a stream has only its current frame, {self.current}")
        return self._square

    def close(self) -> None:
        self._square = None
