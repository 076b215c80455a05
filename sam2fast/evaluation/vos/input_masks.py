"""Reads the input masks of a video, and selects the masks from which each object is tracked."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import (
    DatasetError,
    FrameKey,
    Labels,
    frame_key,
    labels_in,
    list_files,
    list_folders,
    object_folders,
    read_labels,
)
from sam2fast.datasets.frame_annotations import MaskImages
from sam2fast.evaluation.scores import VOID
from sam2fast.io.label_maps import MOST_LABELS, palette_of

Mask = NDArray[np.bool_]
LATE = "for videos in which objects appear later give --late-objects"


class InputMasks(MaskImages):
    """Masks of a video by frame index, in either layout.

    Args:
        folder: Folder of ``FRAME.png`` with object ids as pixel values. If ``per_object``, of ``OBJECT/FRAME.png``.
        names: Names of the video's frames, in order, without suffix. Numbers may have any number of leading zeros.
        ignored: Values that are not objects. In all layouts, pixels with these values are background.

    Attributes:
        without_frame: Number of images without a frame.
        has_void: True if a mask of one object had :data:`VOID` in addition to another value.

    Raises:
        DatasetError: If the folder does not exist or has the other layout, or a frame or object occurs twice.
    """

    def __init__(self, folder: Path, names: Sequence[str], per_object: bool, ignored: Collection[int] = ()) -> None:
        self.has_void = False
        self._folders: dict[int | None, Path] = {None: folder}
        if per_object:
            self._folders = {i: path for i, path in object_folders(folder).items()}
        if not self._folders:
            raise DatasetError(f"{folder} has no folders of objects, such as 001; palette images are the other layout")
        self._names, keys = names, [frame_key(name) for name in names]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise DatasetError(f"several frames of the video are named {repeated[0]}")
        listed = {i: list_files(path) for i, path in self._folders.items()}
        if not per_object and not listed[None] and any(path.name.isdecimal() for path in list_folders(folder)):
            raise DatasetError(f"{folder} has folders of objects, such as 001: give --per-object")
        indices = {i: [index for index, key in enumerate(keys) if key in files] for i, files in listed.items()}
        self.without_frame = sum(len(listed[i]) - len(frames) for i, frames in indices.items())
        super().__init__({i: {t: listed[i][keys[t]] for t in frames} for i, frames in indices.items()}, folder, ignored)

    def frames(self) -> list[int]:
        """Returns the indices of frames with a mask file, in ascending order."""
        return sorted({int(frame) for files in self._files.values() for frame in files})

    @property
    def object_ids(self) -> set[int]:
        """Returns the ids of objects that have a folder. Empty if masks are ``FRAME.png``."""
        return {i for i in self._files if i is not None}

    def read(self, frame: int, only: Collection[int] | None = None) -> dict[int, Mask]:
        """Reads the bool masks ``(H, W)`` of a frame by object id, ascending.

        Args:
            only: ids of objects; by default all objects. Every object must have a file.

        Raises:
            DatasetError: If a file is missing or unusable.
        """
        if None in self._files:
            labels = self._labels(None, frame)
            return {i: labels == i for i in (labels_in(labels) if only is None else sorted(only))}
        ids = sorted(self.object_ids if only is None else only)
        return {i: self._labels(i, frame) != 0 for i in ids}

    def colours(self, frame: int) -> bytes | None:
        """Returns the palette of a frame's mask image, or of its last object's image. None without palette or image.

        Raises:
            DatasetError: If the image is unusable.
        """
        paths = [files[frame] for files in self._files.values() if frame in files]
        if not paths:
            return None
        read_labels(paths[-1])  # raises errors that name the file
        return palette_of(paths[-1])

    def _labels(self, i: int | None, frame: FrameKey, size: tuple[int, int] | None = None) -> Labels:
        if frame not in self._files[i]:
            raise DatasetError(f"there is no input mask {self._folders[i] / self._names[int(frame)]}.png; {LATE}")
        labels = super()._labels(i, frame, size)
        if self._ignored:
            labels = labels * ~np.isin(labels, list(self._ignored))
        if i is not None and not self.has_void and (labels == VOID).any():
            self.has_void = len(labels_in(labels)) > 1
        if labels.dtype.itemsize > 2 and labels.max() > MOST_LABELS:
            raise DatasetError(
                f"{self._files[i][frame]}: ids go up to {labels.max()}; expected at most {MOST_LABELS}, 16 bits"
            )
        return labels


def count_left_out(masks: InputMasks, only_first: bool) -> dict[str, int]:
    """Counts the inputs of a video from which no object was tracked. With ``only_first``, reads all images.

    Only counts above 0 are returned: ``late_objects`` that appear after frame 0, ``empty_objects`` that no mask shows,
    ``unreadable_masks`` read only to find late objects, and ``masks_without_frame`` of their name.
    """
    shown: set[int] = set()
    late: set[int] = set()
    unreadable = 0
    for frame in masks.frames() if only_first or masks.object_ids else ():
        try:
            new = masks.visible_objects(frame, shown | late)
        except DatasetError:
            unreadable += 1
            continue
        (late if only_first and frame else shown).update(new)
    empty = masks.object_ids - shown - late
    if len(shown | late) > 1 and not masks.object_ids:
        late.discard(VOID)  # void pixels are not tracked
    counts = {
        "late_objects": len(late),
        "empty_objects": len(empty),
        "unreadable_masks": unreadable,
        "masks_without_frame": masks.without_frame,
    }
    return {name: count for name, count in counts.items() if count}


class ObjectGroup(NamedTuple):
    """Objects that are tracked from the same frame on."""

    start: int
    prompts: Callable[[], Iterator[tuple[int, dict[int, Mask]]]]  # yields frames and masks by object, read lazily


class ObjectGroups(NamedTuple):
    """All objects of a video, grouped by first frame. ``ids`` are empty if finding them requires reading masks."""

    groups: list[ObjectGroup]
    ids: list[int]
    palette_frame: int


def group_all_objects(masks: InputMasks, all_masks: bool) -> ObjectGroups:
    """Returns one group of all objects, from the masks of frame 0 or of all frames.

    Raises DatasetError if a mask is missing or shows no object, or a later mask shows a new object.
    """
    frames = masks.frames() if all_masks else [0]
    if not frames:
        raise DatasetError("there are no input masks; expected a PNG with the name of a frame")
    return ObjectGroups([ObjectGroup(frames[0], lambda: _prompts_of_all(masks, frames))], [], frames[-1])


def _prompts_of_all(masks: InputMasks, frames: list[int]) -> Iterator[tuple[int, dict[int, Mask]]]:
    known: set[int] | None = None
    for frame in frames:
        new_masks = masks.read(frame)
        known = set(new_masks) if known is None else known
        new = sorted(set(new_masks) - known)
        if new:
            raise DatasetError(
                f"object {new[0]} of frame {frame} is not on the first one with masks, {frames[0]}; {LATE}"
            )
        if not known:
            raise DatasetError(f"the mask of frame {frame} shows no object; {LATE}")
        yield frame, new_masks


def group_by_first_frame(masks: InputMasks, all_masks: bool) -> ObjectGroups:
    """Groups objects by the first frame that shows them. Raises DatasetError without objects or for unusable files."""
    frames: dict[int, list[int]] = {}
    for frame in masks.frames():
        for obj_id in masks.visible_objects(frame, known=() if all_masks else frames.keys()):
            frames.setdefault(obj_id, []).append(frame)
    if not frames:
        raise DatasetError("no input mask shows an object")
    starts: dict[int, list[int]] = {}
    for obj_id in sorted(frames):
        starts.setdefault(frames[obj_id][0], []).append(obj_id)
    groups = [
        ObjectGroup(start, lambda ids=ids: _prompts_of(masks, {i: frames[i] for i in ids}))  # type: ignore[misc]
        for start, ids in sorted(starts.items())
    ]
    return ObjectGroups(groups, sorted(frames), masks.frames()[-1])


def _prompts_of(masks: InputMasks, frames: dict[int, list[int]]) -> Iterator[tuple[int, dict[int, Mask]]]:
    for frame in sorted({frame for shown in frames.values() for frame in shown}):
        yield frame, masks.read(frame, only=[i for i, shown in frames.items() if frame in shown])
