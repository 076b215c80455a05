"""The masks of a video or image by frame and object, from PNGs, run lengths or polygons, as training reads them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import DatasetError, FrameKey, Labels, labels_in, read_labels
from sam2fast.datasets.sav_json import MASKLETS, read_mask_lists
from sam2fast.datasets.segmentations import area_of, decode_segmentation


class Annotations(Protocol):
    """The ground truth masks of a video or image, by frame and object."""

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """Ids of the objects with a mask in a frame, ascending."""
        ...

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Bool masks ``(O, H, W)`` of a frame of ``size`` (height, width); empty for an object that is not visible.

        Raises:
            DatasetError: a mask cannot be read, or has another size.
        """
        ...


class _LastFrame:
    """A cache of the mask files of one frame: each is read once; the next frame empties the cache."""

    def __init__(self) -> None:
        self._frame: FrameKey | None = None
        self._labels: dict[Path, Labels] = {}

    def read(self, frame: FrameKey, path: Path, size: tuple[int, int] | None = None) -> Labels:
        if frame != self._frame:
            self._frame, self._labels = frame, {}
        if path not in self._labels or size is not None and self._labels[path].shape != size:
            self._labels[path] = read_labels(path, size)
        return self._labels[path]


class PaletteAnnotations:
    """One PNG per frame; its values are object ids, 0 is the background.

    Follows the official ``PalettisedPNGSegmentLoader``: every frame must have a PNG.

    Args:
        files: by frame.
        where: their folder, for messages.
        ignored: values that are no objects.
        notice: called with the path and the number of values whenever the objects of a frame are listed.
    """

    def __init__(
        self,
        files: Mapping[FrameKey, Path],
        where: Path,
        ignored: Collection[int] = (),
        notice: Callable[[Path, int], None] | None = None,
    ) -> None:
        self._files, self._where, self._ignored, self._notice = files, where, frozenset(ignored), notice
        self._last = _LastFrame()

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`Annotations`."""
        found = labels_in(self._read(frame))
        if self._notice is not None:
            self._notice(self._files[frame], len(found))
        return tuple(i for i in found if i not in self._ignored)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`."""
        return self._read(frame, size) == np.array(object_ids)[:, None, None]

    def _read(self, frame: FrameKey, size: tuple[int, int] | None = None) -> Labels:
        if frame not in self._files:
            raise DatasetError(f"{self._where} has no PNG for frame {frame}")
        return self._last.read(frame, self._files[frame], size)


class PerObjectAnnotations:
    """A PNG for each object in each frame; nonzero pixels are the object.

    Follows the official ``MultiplePNGSegmentLoader``: without a PNG, the object is not visible.

    Args:
        files: by object id and frame.
    """

    def __init__(self, files: Mapping[int, Mapping[FrameKey, Path]]) -> None:
        self._files, self._last = dict(sorted(files.items())), _LastFrame()

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`Annotations`."""
        there = ((i, files[frame]) for i, files in self._files.items() if frame in files)
        return tuple(i for i, path in there if self._last.read(frame, path).any())

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`."""
        masks = np.zeros((len(object_ids), *size), dtype=np.bool_)
        for mask, i in zip(masks, object_ids, strict=True):
            path = self._files.get(i, {}).get(frame)
            if path is not None:
                mask[:] = self._last.read(frame, path, size) != 0
        return masks


class SegmentAnnotations:
    """Objects of an image as run lengths or polygons, decoded lazily and cached.

    Follows the official ``training.dataset.vos_segment_loader.LazySegments``.

    Args:
        segments: by object id.
        where: for messages: the file, and what it calls an id.
    """

    def __init__(self, segments: Mapping[int, Any], where: str) -> None:
        self._segments, self._where = segments, where
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """All objects; the caller has left out those without a pixel."""
        return tuple(self._segments)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`."""
        return np.stack([self._decode(i, size) for i in object_ids])

    def _decode(self, i: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        if i not in self._masks:
            self._masks[i] = decode_segmentation(self._segments[i], size, f"{self._where} {i}")
        return self._masks[i]


class MaskletAnnotations:
    """Run lengths of every object in every ``ann_every``-th frame, decoded lazily.

    Object ids are positions in the file, from 0. Follows the official
    ``training.dataset.vos_segment_loader.JSONSegmentLoader``.

    Args:
        path, ann_every, frames_fps: see :func:`~sam2fast.datasets.sav_json.read_mask_lists`, also for errors.
    """

    def __init__(self, path: Path, ann_every: int, frames_fps: int) -> None:
        self._path = path
        _, self._frames, self.ann_every = read_mask_lists(path, ann_every, frames_fps)

    def is_annotated(self, frame: int) -> bool:
        """Whether the file has a mask, possibly an empty one, for every object in a frame."""
        position, rest = divmod(frame, self.ann_every)
        return rest == 0 and 0 <= position < len(self._frames) and None not in self._frames[position]

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`Annotations`."""
        position, masks = self._at(frame)
        where = f"{self._path}: {MASKLETS}[{position}]"
        return tuple(i for i, rle in enumerate(masks) if rle is not None and area_of(rle, where=where) > 0)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`; an object that is not annotated in the frame is an error."""
        position, masks = self._at(frame)
        decoded = []
        for i in object_ids:
            where = f"{self._path}: {MASKLETS}[{position}][{i}]"
            if i >= len(masks) or masks[i] is None:
                raise DatasetError(f"{where}: the object is not annotated in frame {frame}: leave rm_unannotated on")
            decoded.append(decode_segmentation(masks[i], size, where))
        return np.stack(decoded)

    def _at(self, frame: FrameKey) -> tuple[int, list[Any]]:
        """The position of a frame in the file, and its masks."""
        if isinstance(frame, int):
            position, rest = divmod(frame, self.ann_every)
            if rest == 0 and position < len(self._frames):
                return position, self._frames[position]
        raise DatasetError(
            f"{self._path} has {len(self._frames)} frames, one for every {self.ann_every} of the video, and none for "
            f"frame {frame}: leave rm_unannotated on"
        )
