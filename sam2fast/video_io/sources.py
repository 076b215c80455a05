"""Sources of frames: image folders, image files, and images in memory."""

import functools
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from sam2fast.io.images import IMAGE_READ_ERRORS, VIDEO_SUFFIXES, open_image, skipped_note, warn_if_colours_are_lost
from sam2fast.transforms import ImageLike
from sam2fast.video_io.arrays import ArrayFrames, Window, is_deep, resized, to_rgb_image
from sam2fast.video_io.video_types import NoFramesError, VideoError, check_size

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the original's list
# The kind with most files gives the frames; of several, the first.
KINDS = ((".jpg", ".jpeg"), (".png",), (".webp",), (".tif", ".tiff"), (".bmp",))
PAGED_FORMATS = ("WEBP", "TIFF")  # image files that can hold a video, and that FFmpeg does not read as one

STATELESS = (np.ndarray, Tensor, str, Path, bytes)  # images that several threads may read at once

FileLike: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO
_log = logging.getLogger(__name__)


def frame_files(folder: Path) -> list[Path]:
    """The frame files of a folder in order: its JPEG, PNG, WebP, TIFF or BMP files, whichever are most.

    Integer names are sorted by number, other names naturally: ``frame_2`` before ``frame_10``. Hidden files are
    ignored; a log line counts other images and videos.

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
    kinds = [[name for name in names if name.lower().endswith(kind)] for kind in KINDS]
    chosen = max(kinds, key=len)
    if not chosen:
        raise NoFramesError(
            f"no images found in {folder}; expected JPEG, PNG, WebP, TIFF or BMP files, such as 00000.jpg, 00001.jpg"
        )
    # Where there are files that the original reads, only these.
    chosen = [name for name in chosen if name.endswith(JPEG_SUFFIXES)] or chosen
    others = {*sum(kinds, []), *(name for name in names if name.lower().endswith(VIDEO_SUFFIXES))} - {*chosen}
    if others:
        _log_once(f"{folder}: {skipped_note(sorted(others))}")
    paths = [folder / name for name in chosen]
    if all(re.fullmatch("-?[0-9]+", path.stem) for path in paths):
        return sorted(paths, key=lambda path: (int(path.stem), path.name))
    return sorted(paths, key=_natural)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links counts as a dangling link
        return False


@functools.cache
def _log_once(text: str) -> None:
    _log.warning("%s", text)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.stem)  # alternating text and digits, so that equal types are compared
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


class Source(ABC):
    """A video with random access to its frames. ``time`` is thread-safe.

    Attributes:
        reads_in_parallel: whether ``read`` is thread-safe, too.
        height, width: upright, in pixels.
        rate: average frames per second, if known.
        truncated: a sentence on frames known to be missing after the last one; None if there are none.
    """

    height: int
    width: int
    rate: float | None = None
    truncated: str | None = None
    reads_in_parallel = False

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
        window: see :func:`to_rgb_image`.

    Raises:
        VideoError: no file has a readable header.
    """

    reads_in_parallel = True

    def __init__(self, paths: Sequence[Path], image_size: int, window: Window | None = None) -> None:
        self._paths, self._image_size, self._window = paths, image_size, window
        self.width, self.height = self._size()

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image.Image:
        path = self._paths[index]
        try:
            with open_image(path) as image:
                warn_if_colours_are_lost(image)
                return _frame_image(image, index, self._window)
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


def _frame_image(image: Image.Image, index: int, window: Window | None) -> Image.Image:
    # PIL would clip 16-bit values at 255.
    return to_rgb_image(image, index, window) if window is not None or is_deep(image) else image.convert("RGB")


class ImagePages(ImageSource):
    """The images of one file: an animated WebP, or a TIFF of several pages.

    Args:
        window: see :func:`to_rgb_image`.
    """

    def __init__(self, file: FileLike, image_size: int, window: Window | None = None) -> None:
        self._arguments = file, image_size, window
        self._image_size, self._window, self._image = image_size, window, _open_paged(file)
        self.width, self.height = self._image.size
        self._times: list[float] = []  # of WebP, which stores them with the images
        with suppress(VideoError):  # raised again when that frame is requested
            for index in range(len(self) if self._image.format == "WEBP" else 0):
                self._seek(index)
                self._times.append(self._image.info["timestamp"] / 1000)
        if self._times and self._times[-1] > 0:
            self.rate = (len(self) - 1) / self._times[-1]

    def __reduce__(self) -> tuple[object, ...]:
        return ImagePages, self._arguments

    @staticmethod
    def has_several(file: FileLike) -> bool:
        """Whether a file is of such a format, and has more than one image; False for one that cannot be rewound."""
        try:
            with _open_paged(file) as image:
                return getattr(image, "n_frames", 1) > 1
        except IMAGE_READ_ERRORS:
            return False

    def __len__(self) -> int:
        return int(getattr(self._image, "n_frames", 1))

    def time(self, index: int) -> float | None:
        return self._times[index] if index < len(self._times) else None

    def image(self, index: int) -> Image.Image:
        self._seek(index)
        return _frame_image(self._image, index, self._window)

    def close(self) -> None:
        if isinstance(self._arguments[0], str | Path):
            self._image.close()

    def _seek(self, index: int) -> None:
        try:
            self._image.seek(index)
            warn_if_colours_are_lost(self._image)
            self._image.load()
        except IMAGE_READ_ERRORS as error:
            raise VideoError(f"frame {index} of the {self._image.format} file cannot be read: {error}") from error


def _open_paged(file: FileLike) -> Image.Image:
    if isinstance(file, bytes | bytearray | memoryview):
        return open_image(BytesIO(file), PAGED_FORMATS)
    if not isinstance(file, str | Path):
        file.seek(0)
    return open_image(file, PAGED_FORMATS)


class ImageList(ImageSource):
    """Images in memory, or their paths. Frames are converted when they are requested.

    The size is that of the first image.

    Args:
        frames: whatever :func:`~sam2fast.transforms.to_pixels` takes; float images are rounded to 8 bits.
        window: see :func:`to_rgb_image`.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, frames: Sequence[ImageLike], image_size: int, window: Window | None = None) -> None:
        self._frames, self._image_size, self._window = frames, image_size, window
        if len(frames) == 0:
            raise NoFramesError("no images found: the sequence is empty")
        first = self.image(0)
        self.height, self.width = first.height, first.width
        # A user's own sequence or subclass may not be thread-safe, nor may an open file that is there twice.
        is_known = type(frames) in (list, tuple) and all(isinstance(x, STATELESS) for x in frames)
        self.reads_in_parallel = is_known or (isinstance(frames, ArrayFrames) and frames.is_plain)

    def __len__(self) -> int:
        return len(self._frames)

    def image(self, index: int) -> Image.Image:
        return to_rgb_image(self._frames[index], index, self._window)

    def close(self) -> None:
        self._frames = ()


class BufferedImages(Source):
    """The images of an iterator, read to its end and kept as resized frames. The size is that of the first image.

    Raises:
        NoFramesError: there are none.
        VideoError, TypeError, FileNotFoundError: the first one cannot be used.
    """

    def __init__(self, images: Iterator[ImageLike], image_size: int, window: Window | None = None) -> None:
        self._window = window
        self._frames_or_errors = [self._resized_or_error(i, image, image_size) for i, image in enumerate(images)]
        if not self._frames_or_errors:
            raise NoFramesError("no images found: the iterator is empty")

    def __len__(self) -> int:
        return len(self._frames_or_errors)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Tensor]]:
        """Frame ``index`` alone, as ``(S, S, 3)`` uint8 RGB on the CPU; see :meth:`Source.read`."""
        frame = self._frames_or_errors[index]
        if isinstance(frame, Exception):
            raise frame
        return [(index, frame)]

    def close(self) -> None:
        self._frames_or_errors.clear()

    def _resized_or_error(self, index: int, image: ImageLike, image_size: int) -> Tensor | Exception:
        try:
            rgb = to_rgb_image(image, index, self._window)
            if index == 0:
                self.height, self.width = rgb.height, rgb.width
            check_size(index, (rgb.height, rgb.width), (self.height, self.width))
        except (VideoError, TypeError, FileNotFoundError) as error:
            if index == 0:
                raise
            return error  # raised when that frame is requested
        return resized(rgb, image_size)
