"""The frames of a video, as image files or a video file, and how they are copied into another data set."""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.dataset_files import FRAME_SUFFIXES, DatasetError, FrameKey, frame_key, list_files, read_frame
from sam2fast.io.images import write_jpeg

QUALITY = 95  # of JPEG; OpenCV's default, which the original's extraction has
# Frames are returned at the video's own size; the resized model input, which is not used, is kept small.
UNUSED_SIZE = 32


@dataclass(frozen=True)
class FrameFiles:
    """The files with a video's frames. There may be none.

    Attributes:
        images: image files by frame.
        video: a video file instead; its frames are counted from 0.
    """

    images: Mapping[FrameKey, Path] = field(default_factory=dict)
    video: Path | None = None

    @classmethod
    def find(cls, folders: Collection[Path], videos: Collection[Path] = ()) -> "FrameFiles":
        """The first of these video files and folders that exists.

        Raises:
            DatasetError: two files of a folder are the same frame.
        """
        for video in videos:
            if video.is_file():
                return cls(video=video)
        for folder in folders:
            if folder.is_dir():
                return cls(list_files(folder, FRAME_SUFFIXES))
        return cls()

    def __bool__(self) -> bool:
        return self.video is not None or bool(self.images)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """The images ``(H, W, 3)`` uint8 RGB of these frames, in order; missing ones are left out.

        A video file is decoded from its beginning to the last of them.

        Raises:
            DatasetError: an image cannot be read.
            VideoError, ImportError: the video file cannot be read, or PyAV is not installed.
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
    """The wanted frames of a video file with their numbers, ``(H, W, 3)`` uint8 RGB.

    All frames are decoded, as each is stored as a difference to others. Only the wanted ones are converted to RGB.

    Args:
        last: number of the last wanted frame; by default the video is read to its end.

    Raises:
        FileNotFoundError, VideoError, ImportError: see :func:`~sam2fast.video_io.read_frames`; the file is damaged or
            cut short.
    """
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
    """The number of frames of a video file; none is decoded.

    Raises:
        DatasetError: it cannot be read.
        ImportError: PyAV is not installed.
    """
    from sam2fast.video_io.video_types import VideoError, require_pyav

    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.timeline import read_timeline

    try:
        return read_timeline(VideoInput.of_file(video)).count
    except (VideoError, OSError) as error:
        raise DatasetError(f"{video}: {error}") from error


def decode_video_frames(video: Path, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames ``(H, W, 3)`` uint8 RGB of a video file, in the order of ``indices``.

    The file is opened once, and decoded in ascending order from the keyframe before the first of them.

    Raises:
        DatasetError: the video or one of the frames cannot be read.
        ImportError: PyAV is not installed.
    """
    from sam2fast.video_io.video_types import VideoError, require_pyav

    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_file import VideoFile

    frames = {}
    try:
        file = VideoFile(VideoInput.of_file(video), None)
        try:
            for index in sorted(set(indices)):
                ((_, pixels),) = file.read(index, index)
                frames[index] = pixels.numpy()
        finally:
            file.close()
    except (VideoError, OSError) as error:
        raise DatasetError(f"{video}: {error}") from error
    return [frames[index] for index in indices]


def write_frames(
    video: Path, folder: Path, is_wanted: Callable[[int], bool], quality: int = QUALITY, digits: int = 5
) -> int:
    """Writes the wanted frames of a video file as ``00000.jpg`` and so on, by their number in the video.

    Returns:
        The number of files.

    Raises:
        OSError, VideoError, ImportError: a file cannot be written; the video cannot be read to its end.
    """
    count = 0
    for index, image in iter_video_frames(video, is_wanted):
        write_jpeg(Image.fromarray(image), folder / f"{index:0{digits}d}.jpg", quality)
        count += 1
    return count


def copy_frames(source: FrameFiles, folder: Path, only: Collection[str] | None) -> int:
    """Copies frames into a folder: image files byte for byte, frames of a video file as JPEG.

    Args:
        only: names of the wanted frames; by default all.

    Returns:
        The number of files.

    Raises:
        OSError, VideoError, ImportError: as :func:`write_frames`.
    """
    keys = None if only is None else {frame_key(name) for name in only}
    if source.video is not None:
        return write_frames(source.video, folder, lambda index: keys is None or index in keys)
    wanted = [path for key, path in source.images.items() if keys is None or key in keys]
    for path in wanted:
        shutil.copyfile(path, folder / path.name)
    return len(wanted)
