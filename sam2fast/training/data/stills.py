"""Annotated pictures as videos: so many equal frames, by default one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.training.data.errors import BadSampleError
from sam2fast.training.data.files import Annotations, FrameKey
from sam2fast.training.data.folders import FolderVideo
from sam2fast.training.data.segmentations import decode_segmentation


def still_video(name: str, path: Path, annotations: Annotations, num_frames: int, upright: bool = False) -> FolderVideo:
    """A picture as a video of equal frames, ``upright`` if it is turned by its EXIF orientation."""
    return FolderVideo(name, ((0, path),) * num_frames, tuple(range(num_frames)), annotations, upright)


def check_num_frames(num_frames: int) -> int:
    """``num_frames``, if it is at least 1; else raises ``ValueError``."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return num_frames


class SegmentAnnotations:
    """Objects of a picture by their run lengths or polygons, decoded when they are asked for, and once.

    Follows the official ``training.dataset.vos_segment_loader.LazySegments``.

    Args:
        segments: by object id.
        where: for messages: the file they are from, and what an id is called in it.
    """

    def __init__(self, segments: Mapping[int, Any], where: str) -> None:
        self._segments, self._where = segments, where
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """All objects, as those without a pixel were left out before."""
        return tuple(self._segments)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        return np.stack([self._decode(i, size) for i in object_ids])

    def _decode(self, i: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        if i not in self._masks:
            try:
                self._masks[i] = decode_segmentation(self._segments[i], size)
            except ValueError as error:
                raise BadSampleError(f"{self._where} {i}: {error}") from error
        return self._masks[i]
