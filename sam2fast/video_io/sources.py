"""Reads frames from image folders, image files, and images in memory."""

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from sam2fast.io.image_files import FileImage, as_rgb, read_header, read_image, read_image_size
from sam2fast.io.images import (
    CINEMA_SUFFIXES,
    IMAGE_READ_ERRORS,
    is_video_file,
    number_in_name,
    open_image,
    skipped_note,
)
from sam2fast.transforms import FileLike, ImageLike, read_file_image
from sam2fast.video_io.arrays import LOGGED, ArrayFrames, FrameScale, Window, log_once, resized, to_rgb_image
from sam2fast.video_io.video_types import NoFramesError, ToneMapped, VideoError, check_size

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the official list
# Types of frame files by suffixes. The type with the most files gives the frames. If several types tie, the first type
# gives the frames.
KINDS = (
    *((".jpg", ".jpeg"), (".png",), (".webp",), (".tif", ".tiff"), (".bmp",), (".heic", ".heif"), (".avif",)),
    *((".exr",), (".dpx",)),
)

STATELESS = (np.ndarray, Tensor, str, Path, bytes)  # types of images that several threads may read at once

Pixels: TypeAlias = Tensor | Callable[[], Tensor]
_log = logging.getLogger(__name__)


def frame_files(folder: Path) -> list[Path]:
    """Returns the frame files of a folder in order: the most frequent type of :data:`KINDS`.

    If all names are numbers, such as ``-3`` or ``0.25``, files are sorted by number, otherwise naturally: ``frame_2``
    before ``frame_10``. Hidden files are ignored. Logs the number of other images and videos, and gaps in the numbers
    of OpenEXR and DPX files.

    Raises:
        NoFramesError: If there are no frame files.
        VideoError: If the folder cannot be read.
    """
    paths, others = split_frames(folder)
    if others:
        log_once(f"{folder}: {skipped_note(others)}")
    if paths[0].suffix.lower() in CINEMA_SUFFIXES:
        _note_gaps(folder, paths)
    return paths


def _note_gaps(folder: Path, paths: Sequence[Path]) -> None:
    """Logs gaps in the last numbers of file names: missing frames, or several sequences in the folder."""
    numbers = [int((re.findall("[0-9]+", path.stem) or ["0"])[-1]) for path in paths]
    distances = [after - before for before, after in pairwise(numbers)]
    places = [i for i, distance in enumerate(distances) if distance != min(distances, key=abs)]
    if places:
        first = f"from {paths[places[0]].name} to {paths[places[0] + 1].name}"
        log_once(f"{folder}: the numbers of frames jump {first}, {len(places)} in all; no frames are put in between")


def other_files(folder: Path) -> list[str]:
    """Returns images and videos that :func:`frame_files` ignores, and prevents the log line about these files."""
    _, others = split_frames(folder)
    LOGGED.add(f"{folder}: {skipped_note(others)}")
    return others


def split_frames(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files of :func:`frame_files`, and the names of other images and videos."""
    try:
        with os.scandir(folder) as entries:
            # Includes dangling links, so that a missing frame is an error.
            names = [entry.name for entry in entries if not entry.name.startswith(".") and not _is_folder(entry)]
    except OSError as error:
        raise VideoError(f"the folder {folder} cannot be read: {error.strerror}") from error
    kinds = [[name for name in names if name.lower().endswith(kind)] for kind in KINDS]
    chosen = max(kinds, key=len)
    if not chosen:
        raise NoFramesError(
            f"no images found in {folder}; expected files such as 00000.jpg ({', '.join(sum(KINDS, ()))})"
        )
    # If the official package reads some of the files, uses only these files.
    chosen = [name for name in chosen if name.endswith(JPEG_SUFFIXES)] or chosen
    others = {*sum(kinds, []), *(name for name in names if is_video_file(name))} - {*chosen}
    paths = [folder / name for name in chosen]
    numbers = {path: number_in_name(path.stem) for path in paths}
    if None not in numbers.values():
        return sorted(paths, key=lambda path: (numbers[path], path.name)), sorted(others)
    return sorted(paths, key=_natural), sorted(others)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link counts as a dangling link
        return False


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.stem)  # text and digits alternate, so that only equal types are compared
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


class Source(ABC):
    """Video with random access to its frames. ``time`` is thread-safe.

    Attributes:
        reads_in_parallel: True if the functions that ``read`` yields do all the work, so that frames are read in
            parallel.
        height, width: Size in pixels, upright.
        rate: Average frames per second, if known.
        truncated: Sentence on frames that are known to be missing after the last frame, or None.
        choices: Page, bands and scale of image files, each only if there were several possibilities. Filled when frames
            are read.
    """

    height: int
    width: int
    rate: float | None = None
    truncated: str | None = None
    choices: Mapping[str, Any] = MappingProxyType({})
    reads_in_parallel = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int, since: int) -> Iterable[tuple[int, Pixels]]:
        """Yields frame ``index``, preceded by frames from ``since`` on if these have to be decoded first.

        Items are pairs of a frame's index and its pixels, ``(S, S, 3)`` uint8 RGB on the CPU, or a function that
        returns the pixels and may be called in any thread. ``read`` itself is called in one thread at a time.

        Raises:
            VideoError: If the frame cannot be read, or has another size than the video. The function raises this, too.
        """

    def time(self, index: int) -> float | None:
        """Returns the seconds from the first frame to this frame, or None if unknown."""
        return None

    def close(self) -> None:  # noqa: B027  (no file is open)
        """Closes files."""


@dataclass(frozen=True)
class SteppedVideo:
    """Argument of ``open_frames``: the frames ``first``, ``first + step``, ... of a video."""

    video: Any
    step: int
    first: int


class SteppedSource(Source):
    """The frames of a :class:`SteppedVideo`, numbered from 0. Raises NoFramesError if there is no frame."""

    def __init__(self, source: Source, step: int, first: int) -> None:
        self._source, self._frames = source, range(first, len(source), step)
        if not self._frames:
            raise NoFramesError(f"the video has {len(source)} frames; there is no frame {first}")
        self.height, self.width, self.truncated = source.height, source.width, source.truncated
        self.choices, self.reads_in_parallel = source.choices, source.reads_in_parallel

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Pixels]]:
        """See :meth:`Source.read`."""
        for number, pixels in self._source.read(self._frames[index], self._frames[since]):
            if number in self._frames:
                yield self._frames.index(number), pixels

    def time(self, index: int) -> float | None:
        return self._source.time(self._frames[index])

    def close(self) -> None:
        self._source.close()


class ImageSource(Source):
    """Base class of sources that load images one by one."""

    _image_size: int

    def read(self, index: int, since: int) -> Iterable[tuple[int, Pixels]]:
        """Returns only frame ``index``. See :meth:`Source.read`."""
        read = partial(self._pixels, index)
        return [(index, read if self.reads_in_parallel else read())]

    def _pixels(self, index: int) -> Tensor:
        image = self.image(index)
        check_size(index, (image.height, image.width), (self.height, self.width))
        return resized(image, self._image_size)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Returns a frame as an 8-bit RGB image of its original size."""


class ImageFiles(ImageSource):
    """Frames of image files, in the order of the paths.

    The EXIF orientation is ignored, as in the official package. The first file with a readable header determines the
    size. Alpha is dropped. Values of more than 8 bits are scaled to 8 bits, with one scale for all files.

    Raises:
        VideoError: If no file has a readable header.
    """

    reads_in_parallel = True

    def __init__(self, paths: Sequence[Path], image_size: int, window: Window | None = None) -> None:
        self._paths, self._image_size = paths, image_size
        self._scale = FrameScale(window, str(paths[0].parent), len(paths), self._read)
        self.choices = self._scale.choices
        self.width, self.height = self._size()

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Image.Image:
        try:
            image = self._read(index)
            return Image.fromarray(as_rgb(image, self._scale.of(image)))
        except IMAGE_READ_ERRORS as error:
            raise VideoError(f"frame {index}, {self._paths[index]}, cannot be read as an image: {error}") from error

    def _read(self, index: int) -> FileImage:
        return read_image(self._paths[index], upright=False)

    def _size(self) -> tuple[int, int]:
        for path in self._paths:
            try:
                return read_image_size(path)
            except IMAGE_READ_ERRORS:
                continue  # a request for the frame raises the error again
        raise VideoError(f"none of the {len(self)} files in {self._paths[0].parent} can be read as an image")


class TiffPages(ImageSource):
    """Frames of a TIFF file with several pages, except thumbnails. All pages have one scale."""

    def __init__(self, file: FileLike, image_size: int, window: Window | None = None) -> None:
        self._arguments = file, image_size, window
        self._file, self._image_size, self._header = file, image_size, read_header(file)
        name = str(file) if isinstance(file, str | Path) else "the TIFF file"
        self._scale = FrameScale(window, name, len(self), self._read)
        self.choices = self._scale.choices
        self.reads_in_parallel = isinstance(file, str | Path | bytes)
        self.width, self.height = read_image_size(file)

    def __reduce__(self) -> tuple[object, ...]:
        return TiffPages, self._arguments

    @staticmethod
    def has_several(file: FileLike) -> bool:
        """Returns True for a TIFF file with more than one image. Returns False if the file cannot be rewound."""
        try:
            header = read_header(file)
        except IMAGE_READ_ERRORS:
            return False
        return header is not None and len(header.images) > 1

    def __len__(self) -> int:
        return 0 if self._header is None else len(self._header.images)

    def image(self, index: int) -> Image.Image:
        try:
            image = self._read(index)
            return Image.fromarray(as_rgb(image, self._scale.of(image)))
        except IMAGE_READ_ERRORS as error:
            raise VideoError(f"frame {index} of the TIFF file cannot be read: {error}") from error

    def _read(self, index: int) -> FileImage:
        return replace(read_image(self._file, index, header=self._header), page=(1, 1))  # all pages are frames


class AnimatedImage(ImageSource):
    """Frames of an animated WebP file."""

    def __init__(self, file: FileLike, image_size: int, window: Window | None = None) -> None:
        self._arguments = file, image_size, window
        self._image_size, self._image = image_size, _open_webp(file)
        self._scale = FrameScale(window)
        self.width, self.height = self._image.size
        self._times: list[float] = []  # WebP stores times with images
        with suppress(VideoError):  # a request for the frame raises the error again
            for index in range(len(self)):
                self._seek(index)
                self._times.append(self._image.info["timestamp"] / 1000)
        if self._times and self._times[-1] > 0:
            self.rate = (len(self) - 1) / self._times[-1]

    def __reduce__(self) -> tuple[object, ...]:
        return AnimatedImage, self._arguments

    @staticmethod
    def has_several(file: FileLike) -> bool:
        """Returns True for a WebP file with more than one image. Returns False if the file cannot be rewound."""
        try:
            with _open_webp(file) as image:
                return getattr(image, "n_frames", 1) > 1
        except IMAGE_READ_ERRORS:
            return False

    def __len__(self) -> int:
        return int(getattr(self._image, "n_frames", 1))

    def time(self, index: int) -> float | None:
        return self._times[index] if index < len(self._times) else None

    def image(self, index: int) -> Image.Image:
        self._seek(index)
        return to_rgb_image(self._image.convert("RGB"), index, self._scale)

    def close(self) -> None:
        if isinstance(self._arguments[0], str | Path):
            self._image.close()

    def _seek(self, index: int) -> None:
        try:
            self._image.seek(index)
            self._image.load()
        except IMAGE_READ_ERRORS as error:
            raise VideoError(f"frame {index} of the WebP file cannot be read: {error}") from error


def _open_webp(file: FileLike) -> Image.Image:
    if isinstance(file, bytes | bytearray | memoryview):
        return open_image(BytesIO(file), ("WEBP",))
    if not isinstance(file, str | Path):
        file.seek(0)
    return open_image(file, ("WEBP",))


def open_pages(file: FileLike | ToneMapped, image_size: int, window: Window | None = None) -> ImageSource | None:
    """Opens a TIFF file or an animated WebP with several images. Returns None for other files."""
    for source in (TiffPages, AnimatedImage):
        if not isinstance(file, ToneMapped) and source.has_several(file):
            return source(file, image_size, window)
    return None


class ImageList(ImageSource):
    """Frames of images in memory or image paths, converted on request. The first image determines the size.

    Raises:
        NoFramesError: If there are no images.
        VideoError, TypeError, FileNotFoundError: If the first image is invalid.
    """

    def __init__(self, frames: Sequence[ImageLike], image_size: int, window: Window | None = None) -> None:
        self._frames, self._image_size = frames, image_size
        self._scale = FrameScale(window, "the images", len(frames), self._read)
        self.choices = self._scale.choices
        if len(frames) == 0:
            raise NoFramesError("no images found: the sequence is empty")
        first = self.image(0)
        self.height, self.width = first.height, first.width
        # Custom sequences and subclasses may not be thread-safe, nor may an open file that occurs twice in the list.
        is_stateless = type(frames) in (list, tuple) and all(isinstance(x, STATELESS) for x in frames)
        self.reads_in_parallel = is_stateless or (isinstance(frames, ArrayFrames) and frames.is_plain)

    def __len__(self) -> int:
        return len(self._frames)

    def image(self, index: int) -> Image.Image:
        return to_rgb_image(self._frames[index], index, self._scale)

    def close(self) -> None:
        self._frames = ()

    def _read(self, index: int) -> FileImage | None:
        frame = self._frames[index]
        return read_file_image(frame) if isinstance(frame, str | Path | bytes) else None


class BufferedImages(Source):
    """Stores the images of an iterator as resized frames. Raises the same errors as :class:`ImageList`."""

    def __init__(self, images: Iterator[ImageLike], image_size: int, window: Window | None = None) -> None:
        scale = FrameScale(window)
        self._frames_or_errors = [self._resized_or_error(i, image, image_size, scale) for i, image in enumerate(images)]
        if not self._frames_or_errors:
            raise NoFramesError("no images found: the iterator is empty")

    def __len__(self) -> int:
        return len(self._frames_or_errors)

    def read(self, index: int, since: int) -> Iterable[tuple[int, Pixels]]:
        """Returns only frame ``index``. See :meth:`Source.read`."""
        frame = self._frames_or_errors[index]
        if isinstance(frame, Exception):
            raise frame
        return [(index, frame)]

    def close(self) -> None:
        self._frames_or_errors.clear()

    def _resized_or_error(self, index: int, image: ImageLike, image_size: int, scale: FrameScale) -> Tensor | Exception:
        try:
            rgb = to_rgb_image(image, index, scale)
            if index == 0:
                self.height, self.width = rgb.height, rgb.width
            check_size(index, (rgb.height, rgb.width), (self.height, self.width))
        except (VideoError, TypeError, FileNotFoundError) as error:
            if index == 0:
                raise
            return error  # raised when the frame is requested
        return resized(rgb, image_size)
