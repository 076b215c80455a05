"""The masks that a video comes with: a palette image for each frame, or a folder for each object."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import Labels, frame_key, labels_in, list_files, object_folders, read_labels
from sam2fast.datasets.palette_masks import MOST_OBJECTS, palette_of

Mask = NDArray[np.bool_]


class InputMasks:
    """Masks of a video by the index of its frames, in either layout.

    Args:
        folder: with ``FRAME.png``, whose values are the objects' ids, 0 the background; or, with ``per_object``, with
            ``OBJECT/FRAME.png``, where what is not 0 is the object.
        names: of the video's frames, in order, without suffix. A mask has the name of its frame; numbers may be written
            with any number of zeros before them. Files that no frame is named like are left alone.

    Raises:
        DatasetError: there are no folders of objects.
        DatasetError: there is no such folder; two files are for one frame, or two folders for one object.
    """

    def __init__(self, folder: Path, names: Sequence[str], per_object: bool) -> None:
        # By object; None stands for all objects in one image.
        self._folders: dict[int | None, Path] = {None: folder}
        if per_object:
            self._folders = {i: path for i, path in object_folders(folder).items()}
        if not self._folders:
            raise DatasetError(f"{folder} has no folders of objects, such as 001; palette images are the other layout")
        self._names, self._files = names, {}
        keys = [frame_key(name) for name in names]
        for i, path in self._folders.items():
            files = list_files(path)
            self._files[i] = {index: files[key] for index, key in enumerate(keys) if key in files}

    def frames(self) -> list[int]:
        """The frames that have a file, rising."""
        return sorted({frame for files in self._files.values() for frame in files})

    def visible(self, frame: int, known: Collection[int] = ()) -> list[int]:
        """Ids of the objects with any pixel on a frame, rising.

        Args:
            known: objects that need not be read, and are not among the results.

        Raises:
            DatasetError: a file cannot be used.
        """
        found: list[int] = []
        for i, files in self._files.items():
            if i is None:
                found.extend(labels_in(self._labels(i, frame)))
            elif frame in files and i not in known and self._labels(i, frame).any():
                found.append(i)
        return [i for i in found if i not in known]

    def read(self, frame: int, only: Collection[int] | None = None) -> dict[int, Mask]:
        """Masks ``(H, W)`` of a frame by object id, rising.

        Args:
            only: these objects; by default all, each of which must have a file then.

        Raises:
            DatasetError: a file is missing, or cannot be used.
        """
        if None in self._files:
            labels = self._labels(None, frame)
            return {i: labels == i for i in (labels_in(labels) if only is None else sorted(only))}
        asked = [i for i in self._files if i is not None] if only is None else sorted(only)
        return {i: self._labels(i, frame) != 0 for i in asked}

    def colours(self, frame: int) -> bytes | None:
        """The palette of a frame's image, of the last object if each has one; None if there is none.

        Raises:
            DatasetError: the image cannot be used.
        """
        there = [files[frame] for files in self._files.values() if frame in files]
        if not there:
            return None
        read_labels(there[-1])  # names the file in its errors
        return palette_of(there[-1])

    def _labels(self, obj_id: int | None, frame: int) -> Labels:
        path = self._files[obj_id].get(frame)
        if path is None:
            raise DatasetError(
                f"there is no input mask {self._folders[obj_id] / self._names[frame]}.png; for videos whose objects "
                "do not all appear on its frame give --late-objects"
            )
        labels = read_labels(path)
        if labels.dtype != np.uint8 and labels.max() > MOST_OBJECTS:
            raise DatasetError(
                f"{path}: ids go up to {labels.max()}; a palette picture has room for ids up to {MOST_OBJECTS}"
            )
        return labels
