"""Where frames come from: what every source offers, image files, and pictures in memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2fast.io.images import UNREADABLE, open_picture
from sam2fast.transforms import ImageError, ImageLike, to_pixels
from sam2fast.video_io.errors import NoFramesError, VideoError, check_size
from sam2fast.video_io.folders import frame_files


class Source(Protocol):
    """A video whose frames can be read one by one. Not safe from several threads, but for ``time``.

    Attributes:
        height, width: upright, in pixels.
        rate: average frames per second, if there are times.
        truncated: a sentence on what is known to be missing after the last frame; None if nothing is.
    """

    height: int
    width: int
    rate: float | None
    truncated: str | None

    def __len__(self) -> int: ...

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` as the last item, after those of ``since``, ... that cost little on the way to it.

        Items are a frame's index and its pixels, ``(S, S, 3)`` uint8 RGB on the CPU.

        Raises:
            VideoError: the frame cannot be read, or has another size than the video.
        """
        ...

    def time(self, index: int) -> float | None:
        """Seconds from the first frame to this one, if that is known."""
        ...

    def close(self) -> None:
        """Lets go of files."""
        ...


def resized(image: Image.Image, size: int) -> Tensor:
    """An RGB image as ``(size, size, 3)`` uint8, by PIL's default filter, which the original relies on."""
    return torch.from_numpy(np.array(image.resize((size, size))))


def picture_of(image: ImageLike, index: int) -> Image.Image:
    """Whatever :func:`~sam2fast.transforms.to_pixels` takes as an RGB image of 8 bits, which is a copy.

    Raises:
        VideoError, TypeError: it cannot be used; the message names the frame.
        FileNotFoundError: it is a path, and there is no such file.
    """
    try:
        pixels = to_pixels(image)
    except ImageError as error:
        raise VideoError(f"frame {index}: {error}") from error
    except TypeError as error:
        raise TypeError(f"frame {index}: {error}") from error
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().byte()
    return Image.fromarray(pixels.cpu().numpy())


class _Untimed:
    """What sources have in common that do not say when their frames are shown."""

    rate: float | None = None
    truncated: str | None = None

    def time(self, index: int) -> float | None:
        return None


class _Single(_Untimed, ABC):
    """What sources have in common whose pictures are found one by one, at the size that they have."""

    height: int
    width: int
    _image_size: int

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` alone, as ``(S, S, 3)`` uint8 RGB on the CPU; see :meth:`Source.read`."""
        image = self.picture(index)
        check_size(index, (image.height, image.width), (self.height, self.width))
        return [(index, resized(image, self._image_size))]

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """A frame as an RGB image of 8 bits, whatever its size."""


class ImageFiles(_Single):
    """Image files in a given order.

    They are taken as they lie: an EXIF orientation is ignored, as in the original. The size is that of the first file
    whose header can be read. Alpha is dropped; grey of 16 bits is scaled to 8.

    Args:
        paths: at least one.

    Raises:
        VideoError: no file has a readable header.
    """

    def __init__(self, paths: Sequence[Path], image_size: int) -> None:
        self._image_size = image_size
        self._paths = paths
        self.width, self.height = self._size()

    def __len__(self) -> int:
        return len(self._paths)

    def picture(self, index: int) -> Image.Image:
        path = self._paths[index]
        try:
            with open_picture(path) as image:
                # PIL would cut 16 bits off at 255.
                return picture_of(image, index) if _is_deep(image) else image.convert("RGB")
        except VideoError:
            raise
        except UNREADABLE as error:
            raise VideoError(f"frame {index}, {path}, cannot be read as an image: {error}") from error

    def close(self) -> None:
        pass

    def _size(self) -> tuple[int, int]:
        for path in self._paths:
            try:
                with open_picture(path) as image:
                    return image.size
            except UNREADABLE:
                continue  # reported when that frame is asked for
        raise VideoError(f"none of the {len(self)} files in {self._paths[0].parent} can be read as an image")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


class ImageFolder(ImageFiles):
    """The frames of a folder; see :func:`~sam2fast.video_io.folders.frame_files` and :class:`ImageFiles`.

    Raises:
        NoFramesError: there are none.
        VideoError: the folder cannot be read, or no file has a readable header.
    """

    def __init__(self, folder: str | Path, image_size: int) -> None:
        super().__init__(frame_files(Path(folder)), image_size)


class Pictures(_Single):
    """Pictures in the caller's memory, or their paths; nothing is copied before a frame is asked for.

    The size is that of the first.

    Args:
        frames: whatever :func:`~sam2fast.transforms.to_pixels` takes; float pictures are rounded to 8 bits.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, frames: Sequence[ImageLike], image_size: int) -> None:
        self._image_size = image_size
        self._frames = frames
        if len(frames) == 0:
            raise NoFramesError("no images found: the sequence is empty")
        first = self.picture(0)
        self.height, self.width = first.height, first.width

    def __len__(self) -> int:
        return len(self._frames)

    def picture(self, index: int) -> Image.Image:
        return picture_of(self._frames[index], index)

    def close(self) -> None:
        self._frames = ()


class Squares(_Untimed):
    """The images of an iterator, read to its end and kept as the model's squares. The size is that of the first.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, images: Iterator[ImageLike], image_size: int) -> None:
        self._squares: list[Tensor | Exception] = []
        for index, image in enumerate(images):
            self._squares.append(self._square(index, image, image_size))
        if not self._squares:
            raise NoFramesError("no images found: the iterator is empty")

    def __len__(self) -> int:
        return len(self._squares)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` alone, as ``(S, S, 3)`` uint8 RGB on the CPU; see :meth:`Source.read`."""
        square = self._squares[index]
        if isinstance(square, Exception):
            raise square
        return [(index, square)]

    def close(self) -> None:
        self._squares = []

    def _square(self, index: int, image: ImageLike, image_size: int) -> Tensor | Exception:
        try:
            picture = picture_of(image, index)
            if index == 0:
                self.height, self.width = picture.height, picture.width
            check_size(index, (picture.height, picture.width), (self.height, self.width))
        except (VideoError, TypeError, FileNotFoundError) as error:
            if index == 0:
                raise
            return error  # kept for who asks for that frame
        return resized(picture, image_size)


class Rows(Sequence[ImageLike]):
    """The frames of one ``(T, H, W, 3)`` uint8 array or tensor.

    Raises:
        VideoError: another shape or dtype.
    """

    def __init__(self, video: np.ndarray | Tensor) -> None:
        if video.ndim != 4 or video.shape[3] != 3 or video.dtype not in (np.uint8, torch.uint8):
            raise VideoError(
                f"the video is {video.dtype} {tuple(video.shape)}; expected uint8 (T, H, W, 3), "
                "or a list of images of other kinds"
            )
        self._video = video

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's two overloads
        frame = self._video[index]
        # An array, because the first dimension of a small tensor would be taken for its channels.
        return frame.cpu().numpy() if isinstance(frame, Tensor) else frame
