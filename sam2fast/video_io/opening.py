"""Determines the type of a video source, and opens its frames."""

import os
import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sam2fast.io.images import numbered_files_hint
from sam2fast.transforms import FileLike, ImageLike
from sam2fast.video_io.arrays import ARRAY_SHAPES, ArrayFrames, Window, check_window
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.sources import (
    BufferedImages,
    ImageFiles,
    ImageList,
    Source,
    SteppedSource,
    SteppedVideo,
    frame_files,
    open_pages,
)
from sam2fast.video_io.video_types import ToneMapped, VideoError, require_pyav
from sam2fast.video_io.volumes import Axis, Volume, is_volume, open_volume

VideoLike: TypeAlias = FileLike | ToneMapped | Sequence[ImageLike] | Iterator[ImageLike] | np.ndarray | Tensor
# Matches at least two characters before the colon, since a single character is a Windows drive.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
__all__ = ["VideoLike", "open_frames"]


class SourceKind(Enum):
    """Types of video sources."""

    FOLDER = auto()  # path of a folder
    FILE = auto()  # path, bytes, or file object
    IMAGES = auto()  # sequence, array or tensor
    ITERATOR = auto()
    ADDRESS = auto()
    CAMERA = auto()


def source_kind(source: Any) -> SourceKind:
    """Returns the type of a video source. A :class:`ToneMapped` video is a file.

    Raises:
        FileNotFoundError: If a path does not exist.
        VideoError: If a path is not accessible, or tone mapping is requested for a source that is not a file.
        TypeError: If the source has none of these types.
    """
    if isinstance(source, ToneMapped):
        if source_kind(source.video) is not SourceKind.FILE:
            raise VideoError("tones are mapped only in video files, given by a path, bytes, or a binary file object")
        return SourceKind.FILE
    if isinstance(source, str) and ADDRESS.match(source):
        return SourceKind.ADDRESS
    if isinstance(source, str | Path):
        return _kind_of_path(Path(source))
    is_file = callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None))
    if isinstance(source, bytes | bytearray | memoryview) or is_file:
        return SourceKind.FILE
    if isinstance(source, Sequence | np.ndarray | Tensor):
        return SourceKind.IMAGES
    if isinstance(source, Iterator):
        return SourceKind.ITERATOR
    if isinstance(source, int) and not isinstance(source, bool):
        return SourceKind.CAMERA
    raise TypeError(
        "expected a folder, a video file (its path, its bytes, or a binary file object), a list or iterator of images, "
        f"or an array {ARRAY_SHAPES}, got {type(source).__name__}"
    )


def as_sequence(source: Sequence[ImageLike] | np.ndarray | Tensor, window: Window | None = None) -> Sequence[ImageLike]:
    """Returns the frames of a source of type :attr:`SourceKind.IMAGES`."""
    return ArrayFrames(source, window) if isinstance(source, np.ndarray | Tensor) else source


def _kind_of_path(path: Path) -> SourceKind:
    try:
        is_folder = os.path.isdir(path)
        if not is_folder:
            os.stat(path)
    except (FileNotFoundError, ValueError):  # ValueError: the name contains a null character
        hint = numbered_files_hint(path)
        raise FileNotFoundError(f"no video file or folder of frames {str(path)!r}{hint}") from None
    except OSError as error:
        raise VideoError(f"{path} is not accessible: {error.strerror}") from error
    return SourceKind.FOLDER if is_folder else SourceKind.FILE


def open_frames(
    source: VideoLike,
    image_size: int,
    *,
    device: torch.device | str = "cpu",
    prefetch: bool = False,
    window: Window | None = None,
    axis: Axis | None = None,
) -> Frames:
    """Opens a video. Each frame is decoded when it is requested.

    Args:
        source: One of these types:

            - a folder of image files, see :func:`~sam2fast.video_io.sources.frame_files`;
            - a video file of any format that FFmpeg reads, an animated WebP, or a TIFF with several pages: its path,
              its bytes, or a binary file object. The file object is read from the beginning, and must not be used
              meanwhile. :class:`~sam2fast.video_io.ToneMapped` maps the tones of a video file;
            - a list of images, as for :func:`~sam2fast.transforms.to_pixels`;
            - an array or tensor, see :class:`~sam2fast.video_io.arrays.ArrayFrames`;
            - an iterator of images. The iterator is exhausted immediately, and each frame takes S * S * 3 bytes;
            - a volume, see :func:`~sam2fast.video_io.open_volume`.

            Images in memory are not copied. A frame has the array's values at the first request of the frame.
        image_size: Side S of the model's square input.
        device: Device of the returned frames.
        prefetch: If True, decodes the next few frames in a thread. Image files and arrays in memory are decoded in up
            to eight threads.
        window: Values (low, high) that become black and white, for volumes, and for images and arrays of any type.
        axis: Axis of the volume's slices that become frames. By default ``"axial"``.

    Raises:
        FileNotFoundError: If the file or folder does not exist.
        VideoError: If the video cannot be read or has an unsupported format, if a window is given for a video file, or
            if an axis is given for a source that is not a volume file.
        ValueError: If the window is not a pair of ascending numbers.
        NoFramesError: If the video has no frames.
        TypeError: If the source has none of these types.
        ImportError: If PyAV is not installed for a video file, or the extra ``medical`` for a volume.
    """
    check_window(window)
    return Frames(_open(source, image_size, window, axis), image_size, device, prefetch)


def _open(source: Any, image_size: int, window: Window | None, axis: Axis | None) -> Source:
    if isinstance(source, SteppedVideo):
        return SteppedSource(_open(source.video, image_size, window, axis), source.step, source.first)
    kind = source_kind(source)
    if is_volume(source):
        return ImageList(open_volume(source, axis or "axial", window), image_size)
    if isinstance(source, Volume) and (window or axis):
        raise VideoError("the volume is already open; pass its window and axis to open_volume()")
    if axis is not None:
        raise VideoError("an axis is for volumes: NIfTI files, DICOM files, and folders of DICOM files")
    if kind is SourceKind.FOLDER:
        return ImageFiles(frame_files(Path(source)), image_size, window)
    if kind is SourceKind.IMAGES:
        return ImageList(as_sequence(source, window), image_size, window)
    if kind is SourceKind.ITERATOR:
        return BufferedImages(source, image_size, window)
    if kind is SourceKind.FILE and (pages := open_pages(source, image_size, window)):
        return pages
    if kind is SourceKind.ADDRESS:
        raise VideoError(
            f"{source} can only be read forwards, as it comes: use read_frames() or a stream, or download it first"
        )
    if kind is SourceKind.CAMERA:
        raise TypeError(f"camera {source}, an int, can only be read as it comes: use read_frames() or a stream")
    if window is not None:
        raise VideoError("a window is for images and arrays; frames of a video file have 8 bits")
    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_file import VideoFile

    return VideoFile(VideoInput.of_file(source), image_size)
