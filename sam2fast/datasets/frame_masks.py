"""The masks of a video by frame and object: one PNG per frame, or one folder of PNGs per object."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import FrameKey, Labels, labels_in, read_labels


class Annotations(Protocol):
    """The true masks of a video."""

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """Ids of the objects with a mask in a frame, rising."""
        ...

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Masks ``(O, H, W)`` of a frame of ``size`` (height, width); empty for an object that is not in it.

        Raises:
            DatasetError: a mask cannot be read, or is of another size.
        """
        ...


class _LastFrame:
    """Files of one frame, each read once; those of the frame before are forgotten."""

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
    """One PNG per frame; its values are the objects' ids, 0 the background.

    As the official ``PalettisedPNGSegmentLoader``: every frame must have one.

    Args:
        files: by frame.
        where: their folder, for messages.
        ignored: values that are no objects.
        notice: is called with the path and the number of values whenever the objects of a frame are counted.
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
    """A PNG for each object and frame that it is in; what is not 0 is the object.

    As the official ``MultiplePNGSegmentLoader``: without a PNG, the object is not visible.

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
