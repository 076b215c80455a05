"""From whatever a caller calls a video to its frames."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from sam2fast.transforms import ImageLike
from sam2fast.video_io.errors import VideoError
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.sources import JpegFolder, Pictures, Rows, Source

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")

VideoLike: TypeAlias = str | Path | bytes | list[ImageLike] | tuple[ImageLike, ...] | np.ndarray | Tensor


def open_frames(
    source: VideoLike, image_size: int, *, device: torch.device | str = "cpu", prefetch: bool = False
) -> Frames:
    """The frames of a video, none of them decoded but what its size and its number of frames need.

    Args:
        source: a folder of JPEG files named by integers; a video file, by path or as ``bytes``; a list of images as
            :func:`~sam2fast.transforms.to_pixels` takes them; an array or tensor ``(T, H, W, 3)`` uint8 RGB. Images in
            memory are neither copied nor to be changed while the frames are in use.
        image_size: side S of the model's square input.
        device: where the frames are normalised and given out.
        prefetch: decode the next few frames in a thread.

    Raises:
        FileNotFoundError: there is no such file or folder.
        VideoError: the video cannot be read, or is of an unsupported kind.
        NoFramesError: it has no frames.
        TypeError: another type of source.
        ImportError: a video file, and PyAV is not installed.
    """
    return Frames(_open(source, image_size), image_size, device, prefetch)


def _open(source: VideoLike, image_size: int) -> Source:
    if isinstance(source, str | Path):
        return _open_path(Path(source), image_size)
    if isinstance(source, bytes):
        return _open_video(source, image_size)
    if isinstance(source, list | tuple):
        return Pictures(tuple(source), image_size)
    if isinstance(source, np.ndarray | Tensor):
        return Pictures(Rows(source), image_size)
    raise TypeError(
        "expected a folder, a video file or its bytes, a list of images, or an array (T, H, W, 3), "
        f"got {type(source).__name__}"
    )


def _open_path(path: Path, image_size: int) -> Source:
    if path.is_dir():
        return JpegFolder(path, image_size)
    if not path.exists():
        raise FileNotFoundError(f"no video file or folder of frames {str(path)!r}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(
            f"{path} is not a supported video; expected a folder of JPEG files, or a file {', '.join(VIDEO_SUFFIXES)}"
        )
    return _open_video(path, image_size)


def _open_video(file: Path | bytes, image_size: int) -> Source:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError("reading video files needs PyAV: pip install 'sam2fast[video]'") from error
    from sam2fast.video_io.video_file import VideoFile

    return VideoFile(file, image_size)
