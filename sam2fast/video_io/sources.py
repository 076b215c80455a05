"""Sources of frames: image folders, image files, and images in memory."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2fast.io.images import IMAGE_READ_ERRORS, open_image
from sam2fast.transforms import ImageError, ImageLike, to_pixels
from sam2fast.video_io.video_types import NoFramesError, VideoError, check_size

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the original's list
# Tried in this order; the first with any file gives the frames. So a folder that the original reads is read alike.
CHOICES = (JPEG_SUFFIXES, (".jpg", ".jpeg"), (".png",), (".webp",))


def frame_files(folder: Path) -> list[Path]:
    """The frame files of a folder in order: its JPEG files, else its PNG files, else its WebP files.

    Integer names are sorted by number, other names naturally: ``frame_2`` before ``frame_10``. Hidden files are
    ignored.

    Raises:
        NoFramesError: there are none.
        VideoError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            # A dangling link is kept, so that the missing frame is an error.
            names = [entry.name for entry in entries if not entry.name.startswith(".") and not _is_folder(entry)]
    except OSError as error:
        raise VideoError(f"the folder {folder} cannot be read: {error.strerror}") from error
    paths = next(filter(None, (_with_suffix(folder, names, choice) for choice in CHOICES)), [])
    if not paths:
        raise NoFramesError(
            f"no images found in {folder}; expected JPEG, PNG or WebP files, such as 00000.jpg, 00001.jpg, ..."
        )
    by_number = all(_is_integer(path.stem) for path in paths)
    return sorted(paths, key=_number if by_number else _natural)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links counts as a dangling link
        return False


def _with_suffix(folder: Path, names: list[str], suffixes: tuple[str, ...]) -> list[Path]:
    paths = [folder / name for name in names]
    if suffixes is JPEG_SUFFIXES:
        return [path for path in paths if path.suffix in suffixes]
    return [path for path in paths if path.suffix.lower() in suffixes]


def _is_integer(stem: str) -> bool:
    try:
        int(stem)
    except ValueError:
        return False
    return True


def _number(path: Path) -> tuple[int, str]:
    return int(path.stem), path.name


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.stem)  # alternating text and digits, so that equal types are compared
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


class Source(ABC):
    """A video with random access to its frames. Only ``time`` is thread-safe.

    Attributes:
        height, width: upright, in pixels.
        rate: average frames per second, if known.
        truncated: a sentence on frames known to be missing after the last one; None if there are none.
    """

    height: int
    width: int
    rate: float | None = None
    truncated: str | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Yields the frames from ``since`` on that are decoded on the way to ``index``, which comes last.

        Items are pairs of a frame's index and its pixels, ``(S, S, 3)`` uint8 RGB on the CPU.

        Raises:
            VideoError: the frame cannot be read, or has another size than the video.
        """

    def time(self, index: int) -> float | None:
        """Seconds from the first frame to this one, if known."""
        return None

    def close(self) -> None:  # noqa: B027  (nothing is open)
        """Closes files."""


def resized(image: Image.Image, size: int) -> Tensor:
    """An RGB image as ``(size, size, 3)`` uint8, by PIL's default filter, which the original relies on."""
    return torch.from_numpy(np.array(image.resize((size, size))))


def to_rgb_image(image: ImageLike, index: int) -> Image.Image:
    """An 8-bit RGB copy of an image that :func:`~sam2fast.transforms.to_pixels` accepts.

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


class ImageSource(Source):
    """Base of sources that load images one by one."""

    _image_size: int

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` alone, as ``(S, S, 3)`` uint8 RGB on the CPU; see :meth:`Source.read`."""
        image = self.image(index)
        check_size(index, (image.height, image.width), (self.height, self.width))
        return [(index, resized(image, self._image_size))]

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """A frame as an 8-bit RGB image of its own size."""


class ImageFiles(ImageSource):
    """Image files in a given order.

    The EXIF orientation is ignored, as in the original. The size is that of the first file with a readable header.
    Alpha is dropped; 16-bit grey is scaled to 8 bits.

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

    def image(self, index: int) -> Image.Image:
        path = self._paths[index]
        try:
            with open_image(path) as image:
                # PIL would clip 16-bit values at 255.
                return to_rgb_image(image, index) if _is_deep(image) else image.convert("RGB")
        except VideoError:
            raise
        except IMAGE_READ_ERRORS as error:
            raise VideoError(f"frame {index}, {path}, cannot be read as an image: {error}") from error

    def _size(self) -> tuple[int, int]:
        for path in self._paths:
            try:
                with open_image(path) as image:
                    return image.size
            except IMAGE_READ_ERRORS:
                continue  # reported when that frame is requested
        raise VideoError(f"none of the {len(self)} files in {self._paths[0].parent} can be read as an image")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


class ImageList(ImageSource):
    """Images in memory, or their paths. Frames are converted when they are requested.

    The size is that of the first image.

    Args:
        frames: whatever :func:`~sam2fast.transforms.to_pixels` takes; float images are rounded to 8 bits.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, frames: Sequence[ImageLike], image_size: int) -> None:
        self._image_size = image_size
        self._frames = frames
        if len(frames) == 0:
            raise NoFramesError("no images found: the sequence is empty")
        first = self.image(0)
        self.height, self.width = first.height, first.width

    def __len__(self) -> int:
        return len(self._frames)

    def image(self, index: int) -> Image.Image:
        return to_rgb_image(self._frames[index], index)

    def close(self) -> None:
        self._frames = ()


class BufferedImages(Source):
    """The images of an iterator, read to its end and kept as resized frames. The size is that of the first image.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, images: Iterator[ImageLike], image_size: int) -> None:
        self._frames_or_errors: list[Tensor | Exception] = []
        for index, image in enumerate(images):
            self._frames_or_errors.append(self._resized_or_error(index, image, image_size))
        if not self._frames_or_errors:
            raise NoFramesError("no images found: the iterator is empty")

    def __len__(self) -> int:
        return len(self._frames_or_errors)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` alone, as ``(S, S, 3)`` uint8 RGB on the CPU; see :meth:`Source.read`."""
        square = self._frames_or_errors[index]
        if isinstance(square, Exception):
            raise square
        return [(index, square)]

    def close(self) -> None:
        self._frames_or_errors = []

    def _resized_or_error(self, index: int, image: ImageLike, image_size: int) -> Tensor | Exception:
        try:
            rgb = to_rgb_image(image, index)
            if index == 0:
                self.height, self.width = rgb.height, rgb.width
            check_size(index, (rgb.height, rgb.width), (self.height, self.width))
        except (VideoError, TypeError, FileNotFoundError) as error:
            if index == 0:
                raise
            return error  # raised when that frame is requested
        return resized(rgb, image_size)


class ArrayFrames(Sequence[ImageLike]):
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
        # An array: the first dimension of a small tensor could be mistaken for channels.
        return frame.cpu().numpy() if isinstance(frame, Tensor) else frame
