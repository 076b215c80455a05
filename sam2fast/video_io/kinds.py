"""Recognises what a caller calls a video."""

import os
import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from torch import Tensor

from sam2fast.transforms import ImageLike
from sam2fast.video_io.errors import VideoError
from sam2fast.video_io.sources import Rows

VideoLike: TypeAlias = (
    str
    | Path
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Sequence[ImageLike]
    | Iterator[ImageLike]
    | np.ndarray
    | Tensor
)
# Two characters at least before the colon: one is a drive of Windows.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Kind(Enum):
    """What a video can come from."""

    FOLDER = auto()  # a path
    FILE = auto()  # a path, the bytes, or a file object
    PICTURES = auto()  # a sequence, array or tensor
    ITERATOR = auto()
    ADDRESS = auto()
    CAMERA = auto()


def kind_of(source: Any) -> Kind:
    """What a source is.

    Raises:
        FileNotFoundError: there is no such file or folder.
        VideoError: a path that may not be looked at.
        TypeError: it is nothing that a video can come from.
    """
    if isinstance(source, str) and ADDRESS.match(source):
        return Kind.ADDRESS
    if isinstance(source, str | Path):
        return _kind_of_path(Path(source))
    if isinstance(source, bytes | bytearray | memoryview) or _is_file(source):
        return Kind.FILE
    if isinstance(source, Sequence | np.ndarray | Tensor):
        return Kind.PICTURES
    if isinstance(source, Iterator):
        return Kind.ITERATOR
    if isinstance(source, int) and not isinstance(source, bool):
        return Kind.CAMERA
    raise TypeError(
        "expected a folder, a video file (its path, its bytes, or a binary file object), a list or iterator of images, "
        f"or an array (T, H, W, 3), got {type(source).__name__}"
    )


def sequence_of(source: Sequence[ImageLike] | np.ndarray | Tensor) -> Sequence[ImageLike]:
    """The frames of a source of kind ``PICTURES``."""
    return Rows(source) if isinstance(source, np.ndarray | Tensor) else source


def _kind_of_path(path: Path) -> Kind:
    try:
        is_folder = os.path.isdir(path)
        if not is_folder:
            os.stat(path)
    except (FileNotFoundError, ValueError):  # the second of a null character, which no file's name has
        raise FileNotFoundError(f"no video file or folder of frames {str(path)!r}") from None
    except OSError as error:
        raise VideoError(f"{path} cannot be looked at: {error.strerror}") from error
    return Kind.FOLDER if is_folder else Kind.FILE


def _is_file(source: Any) -> bool:
    return callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None))
