"""Frames of a video, as image files or a video file, and functions that copy them to another data set.

Functions raise :class:`DatasetError` if an image cannot be read, ``VideoError`` or ``FileNotFoundError`` if a video
file is missing, damaged or cut short, and ``ImportError`` if there is a video file and PyAV is not installed.
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.dataset_files import (
    FRAME_SUFFIXES,
    DatasetError,
    FrameKey,
    frame_key,
    list_entries,
    list_files,
    read_frame,
)
from sam2fast.io.image_names import similar_path
from sam2fast.io.images import SUFFIXES, write_jpeg

QUALITY = 95  # JPEG quality; OpenCV's default, like in the official extraction
# Frames are returned at the video's size. The resized model input is not used, so it is small.
UNUSED_SIZE = 32


@dataclass(frozen=True)
class FrameFiles:
    """Files with a video's frames: image files by frame, a video file with frames counted from 0, or no files."""

    images: Mapping[FrameKey, Path] = field(default_factory=dict)
    video: Path | None = None

    @classmethod
    def find(cls, folders: Collection[Path], videos: Collection[Path] = ()) -> "FrameFiles":
        """Returns the first existing folder or video; see :func:`~sam2fast.io.image_names.similar_path`.

        Raises DatasetError if all images have other formats.
        """
        for video in (similar_path(path.parent, path.name) for path in videos):
            if video.is_file():
                return cls(video=video)
        for folder in (similar_path(path.parent, path.name) for path in folders):
            if folder.is_dir():
                images = list_files(folder, FRAME_SUFFIXES)
                others = [] if images else [p.name for p in list_entries(folder) if p.suffix.lower() in SUFFIXES]
                if others:
                    raise DatasetError(f"{folder} has frames such as {min(others)}; expected JPEG or PNG: convert them")
                return cls(images)
        return cls()

    def __bool__(self) -> bool:
        return self.video is not None or bool(self.images)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yields the frames ``names`` as images ``(H, W, 3)`` uint8 RGB, in order. Missing frames are skipped.

        A video file is decoded from its beginning to the last of these frames.
        """
        keys = {frame_key(name): name for name in names}
        if self.video is None:
            for key, path in self.images.items():
                if key in keys:
                    yield keys[key], read_frame(path)
            return
        last = max((key for key in keys if isinstance(key, int)), default=-1)
        for index, image in iter_video_frames(self.video, lambda index: index in keys, last):
            yield keys[index], image


def iter_video_frames(
    video: Path, is_wanted: Callable[[int], bool], last: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields wanted frames up to ``last``, ``(H, W, 3)`` uint8, with their numbers. Only these are converted to RGB."""
    from sam2fast.video_io import read_frames

    if last is not None and last < 0:
        return
    with read_frames(video, UNUSED_SIZE) as reader:
        for frame in reader:
            if is_wanted(frame.index):
                yield frame.index, frame.rgb
            if frame.index == last:
                return


def count_frames(video: Path) -> int:
    """Counts the frames of a video file without decoding. Raises :class:`DatasetError` if the file is damaged."""
    with _damage_as_dataset_error(video):
        from sam2fast.video_io.containers import VideoInput
        from sam2fast.video_io.timeline import read_timeline

        return read_timeline(VideoInput.of_file(video)).count


def decode_video_frames(video: Path, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Decodes frames ``(H, W, 3)`` uint8 RGB, each once, in the order of ``indices``. Damage raises DatasetError."""
    frames = {}
    with _damage_as_dataset_error(video):
        from sam2fast.video_io.containers import VideoInput
        from sam2fast.video_io.video_file import VideoFile

        with closing(VideoFile(VideoInput.of_file(video), None)) as file:
            for index in sorted(set(indices)):
                ((_, resize),) = file.read(index, index)
                frames[index] = resize().numpy()
    return [frames[index] for index in indices]


@contextmanager
def _damage_as_dataset_error(video: Path) -> Iterator[None]:
    """Requires PyAV and converts errors of a video file to :class:`DatasetError`."""
    from sam2fast.video_io.video_types import VideoError, require_pyav

    require_pyav()
    try:
        yield
    except (VideoError, OSError) as error:
        raise DatasetError(f"{video}: {error}") from error


def write_frames(
    video: Path, folder: Path, is_wanted: Callable[[int], bool], quality: int = QUALITY, digits: int = 5
) -> int:
    """Writes the wanted frames of a video file as ``00000.jpg`` and so on. Returns the number of written frames."""
    count = 0
    for index, image in iter_video_frames(video, is_wanted):
        write_jpeg(Image.fromarray(image), folder / f"{index:0{digits}d}.jpg", quality)
        count += 1
    return count


def copy_frames(source: FrameFiles, folder: Path, only: Collection[str] | None) -> None:
    """Copies all or the named frames to a folder: images byte for byte, frames of a video file as JPEG."""
    keys = None if only is None else {frame_key(name) for name in only}
    if source.video is not None:
        write_frames(source.video, folder, lambda index: keys is None or index in keys)
    for key, path in source.images.items():
        if keys is None or key in keys:
            shutil.copyfile(path, folder / path.name)
