"""From whatever a caller calls a video to its frames."""

from typing import Any

import torch

from sam2fast.video_io.errors import VideoError, require_pyav
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.kinds import Kind, VideoLike, kind_of, sequence_of
from sam2fast.video_io.sources import ImageFolder, Pictures, Source, Squares

__all__ = ["VideoLike", "open_frames"]


def open_frames(
    source: VideoLike, image_size: int, *, device: torch.device | str = "cpu", prefetch: bool = False
) -> Frames:
    """The frames of a video, none of them decoded but what its size and its number of frames need.

    Args:
        source: a folder of JPEG, PNG or WebP files, see :func:`~sam2fast.video_io.folders.frame_files`; a video file of
            any format that FFmpeg reads: its path, its bytes, or a binary file object, which is read from its beginning
            and not to be used meanwhile; a list of images as :func:`~sam2fast.transforms.to_pixels` takes them; an
            array or tensor ``(T, H, W, 3)`` uint8 RGB; an iterator of images, which is read to its end at once, S * S *
            3 bytes for each. Images in memory are neither copied nor to be changed while the frames are in use.
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


def _open(source: Any, image_size: int) -> Source:
    kind = kind_of(source)
    if kind is Kind.FOLDER:
        return ImageFolder(source, image_size)
    if kind is Kind.PICTURES:
        return Pictures(sequence_of(source), image_size)
    if kind is Kind.ITERATOR:
        return Squares(source, image_size)
    if kind is Kind.ADDRESS:
        raise VideoError(
            f"{source} can only be read forwards, as it comes: use read_frames() or a stream, or download it first"
        )
    if kind is Kind.CAMERA:
        raise TypeError(f"camera {source}, an int, can only be read as it comes: use read_frames() or a stream")
    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_file import VideoFile

    return VideoFile(VideoInput.of_file(source), image_size)
