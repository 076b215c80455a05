"""Where frames come from: what every source offers, folders of JPEG files, and pictures in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2fast.transforms import UNREADABLE, ImageError, ImageLike, to_pixels
from sam2fast.video_io.errors import NoFramesError, VideoError

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the original's list; .Jpg is another file


class Source(Protocol):
    """A video whose frames can be read one by one. Not safe from several threads."""

    height: int
    width: int

    def __len__(self) -> int: ...

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` as the last item, after those of ``since``, ... that cost little on the way to it.

        Items are a frame's index and its pixels, ``(S, S, 3)`` uint8 RGB on the CPU.

        Raises:
            VideoError: the frame cannot be read.
        """
        ...

    def close(self) -> None:
        """Lets go of files."""
        ...


def resized(image: Image.Image, size: int) -> Tensor:
    """An RGB image as ``(size, size, 3)`` uint8, by PIL's default filter, which the original relies on."""
    return torch.from_numpy(np.array(image.resize((size, size))))


class ImageFiles:
    """Image files in a given order.

    They are taken as they lie: an EXIF orientation is ignored, as in the original. The size is that of the last file,
    also as in the original; where its header is damaged, of the last before it that has one.

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

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        path = self._paths[index]
        try:
            with Image.open(path) as image:
                return [(index, resized(image.convert("RGB"), self._image_size))]
        except UNREADABLE as error:
            raise VideoError(f"frame {index}, {path}, cannot be read as an image: {error}") from error

    def close(self) -> None:
        pass

    def _size(self) -> tuple[int, int]:
        for path in reversed(self._paths):
            try:
                with Image.open(path) as image:
                    return image.size
            except UNREADABLE:
                continue  # reported when that frame is asked for
        raise VideoError(f"none of the {len(self)} files in {self._paths[0].parent} can be read as an image")


class JpegFolder(ImageFiles):
    """The JPEG files of a folder, ordered by the integers that are their names; see :class:`ImageFiles`.

    Raises:
        NoFramesError: there are no JPEG files.
        VideoError: a JPEG file's name is no integer, or no file has a readable header.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        super().__init__(jpeg_files(folder), image_size)


def jpeg_files(folder: Path) -> list[Path]:
    """The JPEG files of a folder by the integers that are their names.

    Raises:
        NoFramesError: there are none.
        VideoError: a name is no integer.
    """
    paths = sorted((path for path in folder.iterdir() if path.suffix in JPEG_SUFFIXES), key=_number)
    if not paths:
        raise NoFramesError(f"no images found in {folder}; expected files named 00000.jpg, 00001.jpg, ...")
    return paths


def _number(path: Path) -> tuple[int, str]:
    try:
        return int(path.stem), path.name
    except ValueError:
        raise VideoError(f"{path} is not named by an integer; expected names such as 00000.jpg") from None


class Pictures:
    """Pictures in the caller's memory, or their paths; nothing is copied before a frame is asked for.

    The size is that of the last, as for a folder.

    Args:
        frames: whatever :func:`~sam2fast.transforms.to_pixels` takes; float pictures are rounded to 8 bits.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the last one cannot be used.
    """

    def __init__(self, frames: Sequence[ImageLike], image_size: int) -> None:
        self._image_size = image_size
        self._frames = frames
        if len(frames) == 0:
            raise NoFramesError("no images found: the sequence is empty")
        self.height, self.width = self._pixels(len(frames) - 1).shape[:2]

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        pixels = self._pixels(index)
        if pixels.is_floating_point():
            pixels = (pixels * 255).round().byte()
        return [(index, resized(Image.fromarray(pixels.cpu().numpy()), self._image_size))]

    def close(self) -> None:
        self._frames = ()

    def _pixels(self, index: int) -> Tensor:
        try:
            return to_pixels(self._frames[index])
        except ImageError as error:
            raise VideoError(f"frame {index}: {error}") from error
        except TypeError as error:
            raise TypeError(f"frame {index}: {error}") from error


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
