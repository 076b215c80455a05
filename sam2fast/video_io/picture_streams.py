"""Images as the frames of a stream: those of a folder or list, and those of an iterator as they come."""

from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam2fast.transforms import ImageLike
from sam2fast.video_io.sources import picture_of, resized
from sam2fast.video_io.stream_frame import StreamFrame


class Album(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """One of them, RGB with 8 bits."""
        ...


class SourceStream:
    """The pictures of a source, one after the other."""

    rate: float | None = None

    def __init__(self, album: Album, name: str, image_size: int) -> None:
        self.name = name
        self.count: int | None = len(album)
        self._album, self._image_size = album, image_size

    def frames(self) -> Generator[StreamFrame, None, None]:
        for index in range(len(self._album)):
            yield _frame(index, self._album.picture(index), self._image_size)


class IteratorStream:
    """The images that an iterator gives, each asked for when the frame before it is done with."""

    name = "the iterator"
    rate: float | None = None
    count: int | None = None

    def __init__(self, images: Iterator[ImageLike], image_size: int) -> None:
        self._images, self._image_size = images, image_size

    def frames(self) -> Generator[StreamFrame, None, None]:
        for index, image in enumerate(self._images):
            yield _frame(index, picture_of(image, index), self._image_size)


class _Still:
    """An RGB image as a frame's picture."""

    def __init__(self, image: Image.Image, image_size: int) -> None:
        self._image, self._image_size = image, image_size

    def rgb(self) -> NDArray[np.uint8]:
        return np.array(self._image)

    def square(self) -> Tensor:
        return resized(self._image, self._image_size)


def _frame(index: int, image: Image.Image, image_size: int) -> StreamFrame:
    return StreamFrame(index, None, image.height, image.width, _Still(image, image_size))
