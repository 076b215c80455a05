"""The pictures of a video: files of a folder, or a film; and how they come into another data set."""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import FRAME_SUFFIXES, FrameKey, frame_key, list_files, read_frame
from sam2fast.io.images import write_jpeg

QUALITY = 95  # of JPEG; OpenCV's default, which the original's extraction has
# Frames are given out at the film's own size; the square that a model would see is never computed.
UNUSED_SIZE = 32


@dataclass(frozen=True)
class FrameFiles:
    """Where a video's pictures are. There may be none.

    Attributes:
        pictures: a file for each frame that has one.
        film: instead; its frames are counted from 0.
    """

    pictures: Mapping[FrameKey, Path] = field(default_factory=dict)
    film: Path | None = None

    @classmethod
    def find(cls, folders: Collection[Path], films: Collection[Path] = ()) -> "FrameFiles":
        """The first of these films and folders that is there.

        Raises:
            DatasetError: two files of a folder are the same frame.
        """
        for film in films:
            if film.is_file():
                return cls(film=film)
        for folder in folders:
            if folder.is_dir():
                return cls(list_files(folder, FRAME_SUFFIXES))
        return cls()

    def __bool__(self) -> bool:
        return self.film is not None or bool(self.pictures)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """The pictures ``(H, W, 3)`` uint8 RGB of these frames, in order; those that are missing are left out.

        A film is decoded from its beginning to the last of them.

        Raises:
            DatasetError: a picture cannot be read.
            VideoError, ImportError: the film cannot be read, or PyAV is not installed.
        """
        keys = {frame_key(name): name for name in names}
        if self.film is None:
            for key, path in self.pictures.items():
                if key in keys:
                    yield keys[key], read_frame(path)
            return
        last = max((key for key in keys if isinstance(key, int)), default=-1)
        for index, picture in read_film(self.film, lambda index: index in keys, last):
            yield keys[index], picture


def read_film(
    film: Path, is_wanted: Callable[[int], bool], last: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The wanted frames of a film with their numbers, ``(H, W, 3)`` uint8 RGB.

    All frames are decoded, as each is stored as a difference to others; only the wanted ones are turned into pictures.

    Args:
        last: the number after which nothing is wanted; by default the film is read to its end.

    Raises:
        FileNotFoundError, VideoError, ImportError: see :func:`~sam2fast.video_io.read_frames`; the file is damaged or
            cut short.
    """
    from sam2fast.video_io import read_frames

    if last is not None and last < 0:
        return
    with read_frames(film, UNUSED_SIZE) as reader:
        for frame in reader:
            if is_wanted(frame.index):
                yield frame.index, frame.rgb
            if frame.index == last:
                return


def count_frames(film: Path) -> int:
    """How many frames a film has; none is decoded.

    Raises:
        DatasetError: it cannot be read.
        ImportError: PyAV is not installed.
    """
    from sam2fast.video_io.errors import VideoError, require_pyav

    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.timeline import read_timeline

    try:
        return read_timeline(VideoInput.of_file(film)).count
    except (VideoError, OSError) as error:
        raise DatasetError(f"{film}: {error}") from error


def read_film_frames(film: Path, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames ``(H, W, 3)`` RGB in the order of ``indices``; the file is opened once, and closed.

    Frames are decoded in rising order from the keyframe before the first of them.

    Raises:
        DatasetError: the film or one of the frames cannot be read.
        ImportError: PyAV is not installed.
    """
    from sam2fast.video_io.errors import VideoError, require_pyav

    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_file import VideoFile

    frames = {}
    try:
        video = VideoFile(VideoInput.of_file(film), None)
        try:
            for index in sorted(set(indices)):
                ((_, pixels),) = video.read(index, index)
                frames[index] = pixels.numpy()
        finally:
            video.close()
    except (VideoError, OSError) as error:
        raise DatasetError(f"{film}: {error}") from error
    return [frames[index] for index in indices]


def write_frames(
    film: Path, folder: Path, is_wanted: Callable[[int], bool], quality: int = QUALITY, digits: int = 5
) -> int:
    """Writes the wanted frames of a film as ``00000.jpg`` and so on, by their number in the film.

    Returns:
        How many there are.

    Raises:
        OSError, VideoError, ImportError: a file cannot be written; the film cannot be read to its end.
    """
    count = 0
    for index, picture in read_film(film, is_wanted):
        write_jpeg(Image.fromarray(picture), folder / f"{index:0{digits}d}.jpg", quality)
        count += 1
    return count


def bring_frames(source: FrameFiles, folder: Path, only: Collection[str] | None) -> int:
    """Brings pictures into a folder: files as they are, byte for byte; those of a film as JPEG.

    Args:
        only: names of the frames that are wanted; by default all.

    Returns:
        How many there are.

    Raises:
        OSError, VideoError, ImportError: as :func:`write_frames`.
    """
    keys = None if only is None else {frame_key(name) for name in only}
    if source.film is not None:
        return write_frames(source.film, folder, lambda index: keys is None or index in keys)
    wanted = [path for key, path in source.pictures.items() if keys is None or key in keys]
    for path in wanted:
        shutil.copyfile(path, folder / path.name)
    return len(wanted)
