"""Masks of a video or image by frame and object, from PNGs, run lengths or polygons, for training."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import DatasetError, FrameKey, Labels, labels_in, read_labels, read_object_ids
from sam2fast.datasets.displayed import displayed_segmentation
from sam2fast.datasets.sav_json import MASKLETS, read_mask_lists
from sam2fast.datasets.segmentations import area_of, decode_segmentation


class Annotations(Protocol):
    """Ground-truth masks of a video or image, by frame and object."""

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """Returns the ids of objects with a mask in a frame, ascending."""
        ...

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Reads bool masks ``(O, H, W)`` of a frame with ``size`` (height, width). Invisible objects have empty masks.

        Raises:
            DatasetError: If a mask cannot be read, or has another size.
        """
        ...


class MaskImages:
    """PNG masks of a video, by object and frame. Each image of a frame is read once.

    Follows the official ``PalettisedPNGSegmentLoader``, which needs a PNG for every frame, and
    ``MultiplePNGSegmentLoader``, in which objects without a PNG are not visible.

    Args:
        files: Images by object id, with nonzero pixels for the object. Key None: images with ids as pixel values.
        where: Folder of the images, for messages.
        ignored: Values that are not objects.
    """

    def __init__(
        self,
        files: Mapping[int | None, Mapping[FrameKey, Path]],
        where: Path,
        ignored: Collection[int] = (),
    ) -> None:
        self._files, self._where, self._ignored = files, where, frozenset(ignored)
        self._last: FrameKey | None = None
        self._read: dict[Path, Labels] = {}  # images of the last frame

    def visible_objects(self, frame: FrameKey, known: Collection[int] = ()) -> tuple[int, ...]:
        """See :class:`Annotations`. Skips the objects ``known`` without reading their images."""
        visible: list[int] = []
        for i, files in self._files.items():
            if i is None:
                visible.extend(value for value in labels_in(self._labels(i, frame)) if value not in self._ignored)
            elif frame in files and i not in known and self._labels(i, frame).any():
                visible.append(i)
        return tuple(i for i in visible if i not in known)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        if None in self._files:
            return self._labels(None, frame, size) == np.array(object_ids)[:, None, None]
        masks = np.zeros((len(object_ids), *size), dtype=np.bool_)
        for mask, i in zip(masks, object_ids, strict=True):
            if frame in self._files.get(i, {}):
                mask[:] = self._labels(i, frame, size) != 0
        return masks

    def _labels(self, i: int | None, frame: FrameKey, size: tuple[int, int] | None = None) -> Labels:
        if frame not in self._files[i]:
            raise DatasetError(f"{self._where} has no PNG for frame {frame}")
        if frame != self._last:
            self._last, self._read = frame, {}
        path = self._files[i][frame]
        if path not in self._read or size is not None and self._read[path].shape != size:
            self._read[path] = (
                read_object_ids(path, size, ignored=self._ignored) if i is None else read_labels(path, size)
            )
        return self._read[path]


class SegmentAnnotations:
    """Objects of an image, each with at least one pixel, as run lengths or polygons. Decoded lazily and cached.

    Follows the official ``training.dataset.vos_segment_loader.LazySegments``.

    Args:
        segments: segmentations by object id, in displayed or stored pixels.
        where: file and the file's word for an id, for messages.
        image: file of the image.
        stated: (H, W) of the image in the annotations, or (None, None).
    """

    def __init__(self, segments: Mapping[int, Any], where: str, image: Path, stated: Any = (None, None)) -> None:
        self._segments, self._where, self._image, self._stated = segments, where, image, stated
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        return tuple(self._segments)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        for i in set(object_ids) - self._masks.keys():
            segment = displayed_segmentation(self._segments[i], self._stated, size, self._image)
            self._masks[i] = decode_segmentation(segment, size, f"{self._where} {i}")
        return np.array([self._masks[i] for i in object_ids], dtype=bool).reshape(-1, *size)


class MaskletAnnotations:
    """Run lengths of every object in every ``ann_every``-th frame, decoded lazily. Ids are positions from 0.

    Follows the official ``JSONSegmentLoader``. See :func:`~sam2fast.datasets.sav_json.read_mask_lists` for arguments
    and errors.
    """

    def __init__(self, path: Path, ann_every: int, frames_fps: int) -> None:
        self._path = path
        _, self._frames, self.ann_every = read_mask_lists(path, ann_every, frames_fps)

    def is_annotated(self, frame: int) -> bool:
        """Returns True if the file has a mask, possibly empty, for every object in a frame."""
        position, rest = divmod(frame, self.ann_every)
        return rest == 0 and 0 <= position < len(self._frames) and None not in self._frames[position]

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        position, masks = self._at(frame)
        where = f"{self._path}: {MASKLETS}[{position}]"
        return tuple(i for i, rle in enumerate(masks) if rle is not None and area_of(rle, where=where) > 0)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Reads masks ``(N, H, W)`` of objects that are annotated in the frame. Other objects are an error."""
        position, masks = self._at(frame)
        decoded = []
        for i in object_ids:
            where = f"{self._path}: {MASKLETS}[{position}][{i}]"
            if i >= len(masks) or masks[i] is None:
                raise DatasetError(f"{where}: the object is not annotated in frame {frame}: leave rm_unannotated on")
            decoded.append(decode_segmentation(masks[i], size, where))
        return np.stack(decoded) if decoded else np.zeros((0, *size), dtype=bool)

    def _at(self, frame: FrameKey) -> tuple[int, list[Any]]:
        """Returns the position of a frame in the file, and its masks."""
        if isinstance(frame, int):
            position, rest = divmod(frame, self.ann_every)
            if rest == 0 and position < len(self._frames):
                return position, self._frames[position]
        raise DatasetError(
            f"{self._path} has {len(self._frames)} frames, one for every {self.ann_every} of the video, and none for "
            f"frame {frame}: leave rm_unannotated on"
        )
