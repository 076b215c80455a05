"""Frames of films at their own size."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.errors import NotFoundError, told
from sam2fast.demo.server.settings import PROBE_SIZE
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.video_file import VideoFile


def frame_picture(file: Path, frame: int, count: int) -> NDArray[np.uint8]:
    """One frame ``(H, W, 3)`` of a film of so many.

    Raises:
        NotFoundError: there is no such frame, or it cannot be read.
    """
    if not 0 <= frame < count:
        raise NotFoundError(f"there is no frame {frame} in this video; its frames are 0 to {count - 1}")
    try:
        with closing(VideoFile(VideoInput.of_file(file), None)) as film:
            pixels = next(pixels for rank, pixels in film.read(frame, frame) if rank == frame)
    except (VideoError, OSError) as error:
        raise NotFoundError(f"frame {frame} cannot be read: {told(error, file)}") from error
    return pixels.numpy()


def frame_pictures(file: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """All frames in order, with their numbers.

    Raises:
        NotFoundError: the film cannot be read, or not to its end.
    """
    try:
        with read_frames(file, PROBE_SIZE) as frames:
            for frame in frames:
                yield frame.index, frame.rgb
    except (VideoError, OSError) as error:
        raise NotFoundError(f"the video cannot be read: {told(error, file)}") from error
