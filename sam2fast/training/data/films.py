"""Single frames of films, at the films' own size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.training.data.errors import BadSampleError


def count_frames(film: Path) -> int:
    """How many frames a film has; none is decoded.

    Raises:
        BadSampleError: it cannot be read.
        ImportError: PyAV is not installed.
    """
    from sam2fast.video_io.errors import VideoError, require_pyav

    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.timeline import read_timeline

    try:
        return read_timeline(VideoInput.of_file(film)).count
    except (VideoError, OSError) as error:
        raise BadSampleError(f"{film}: {error}") from error


def read_film_frames(film: Path, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames ``(H, W, 3)`` RGB in the order of ``indices``; the file is opened once, and closed.

    Frames are decoded in rising order from the keyframe before the first of them.

    Raises:
        BadSampleError: the film or one of the frames cannot be read.
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
        raise BadSampleError(f"{film}: {error}") from error
    return [frames[index] for index in indices]
