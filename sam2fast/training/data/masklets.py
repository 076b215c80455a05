"""The masks of a video in one JSON file, as SA-V has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.training.data.errors import BadSampleError
from sam2fast.training.data.files import FrameKey, read_json
from sam2fast.training.data.segmentations import area_of, decode_segmentation

KEYS = ("masklet", "masks")


class MaskletAnnotations:
    """Run lengths of every object in every ``ann_every``-th frame, decoded when they are asked for.

    Objects' ids are their places in the file, from 0. Follows the official
    ``training.dataset.vos_segment_loader.JSONSegmentLoader``.

    Args:
        path: of a JSON file with a list of frames, each a list with the run lengths of every object, or null; or with
            such a list under the key ``masklet`` or ``masks``.
        ann_every: how many frames of the video one annotated frame is for.
        frames_fps: of the video; where the file has ``fps``, its own, the two say ``ann_every``.

    Raises:
        BadSampleError: the file cannot be read, or has another structure.
    """

    def __init__(self, path: Path, ann_every: int, frames_fps: int) -> None:
        content = read_json(path)
        frames, self.ann_every = content, ann_every
        if isinstance(content, dict):
            frames = next((content[key] for key in KEYS if key in content), None)
            if "fps" in content:
                self.ann_every = _frames_per_annotation(path, content["fps"], frames_fps)
        if not isinstance(frames, list) or not all(isinstance(frame, list) for frame in frames):
            raise BadSampleError(
                f'{path}: expected the key "{KEYS[0]}" with a list of frames, each a list of masks, as in SA-V\'s files'
            )
        self._path, self._frames = path, frames

    def is_annotated(self, frame: int) -> bool:
        """Whether the file has a mask, be it empty, for every object in a frame."""
        position, rest = divmod(frame, self.ann_every)
        return rest == 0 and 0 <= position < len(self._frames) and None not in self._frames[position]

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        position, masks = self._at(frame)
        try:
            return tuple(i for i, rle in enumerate(masks) if rle is not None and area_of(rle) > 0)
        except ValueError as error:
            raise BadSampleError(f"{self._path}: {KEYS[0]}[{position}]: {error}") from error

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.training.data.files.Annotations`; an object that a frame does not have is an error."""
        position, masks = self._at(frame)
        decoded = []
        for i in object_ids:
            where = f"{self._path}: {KEYS[0]}[{position}][{i}]"
            if i >= len(masks) or masks[i] is None:
                raise BadSampleError(f"{where}: the object is not annotated in frame {frame}: leave rm_unannotated on")
            try:
                decoded.append(decode_segmentation(masks[i], size))
            except ValueError as error:
                raise BadSampleError(f"{where}: {error}") from error
        return np.stack(decoded)

    def _at(self, frame: FrameKey) -> tuple[int, list[Any]]:
        """The place of a frame in the file, and what is there."""
        if isinstance(frame, int):
            position, rest = divmod(frame, self.ann_every)
            if rest == 0 and position < len(self._frames):
                return position, self._frames[position]
        raise BadSampleError(
            f"{self._path} has {len(self._frames)} frames, one for every {self.ann_every} of the video, and none for "
            f"frame {frame}: leave rm_unannotated on"
        )


def _frames_per_annotation(path: Path, fps: Any, frames_fps: int) -> int:
    try:
        annotated = int(fps[0] if isinstance(fps, list) else fps)
        if annotated > 0 and frames_fps % annotated == 0:
            return frames_fps // annotated
    except (IndexError, TypeError, ValueError):
        pass
    raise BadSampleError(f"{path}: fps must divide frames_fps, which is {frames_fps}, got {str(fps)[:60]}")
