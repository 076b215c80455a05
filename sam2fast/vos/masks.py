"""The masks that a video comes with: a palette picture for each frame, or a folder for each object."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.mask_pictures import COLOURS, palette_of
from sam2fast.picture_files import open_picture
from sam2fast.training.data.files import MASK_SUFFIXES, FrameKey, list_files, list_folders, read_labels
from sam2fast.vos.errors import VosError

Mask = NDArray[np.bool_]


class InputMasks(Protocol):
    """Masks of a video by the index of its frames, in either layout."""

    def frames(self) -> list[int]:
        """The frames that have a file, rising."""
        ...

    def visible(self, frame: int, known: Collection[int] = ()) -> list[int]:
        """Ids of the objects with any pixel on a frame, rising.

        Args:
            known: objects that need not be looked at, and are not among the answer.

        Raises:
            VosError, BadSampleError: a file cannot be used.
        """
        ...

    def read(self, frame: int, only: Collection[int] | None = None) -> dict[int, Mask]:
        """Masks ``(H, W)`` of a frame by object id, rising.

        Args:
            only: these objects; by default all, each of which must have a file then.

        Raises:
            VosError, BadSampleError: a file is missing, or cannot be used.
        """
        ...

    def colours(self, frame: int) -> bytes | None:
        """The palette of a frame's picture, of the last object if each has one; None if there is no such thing.

        Raises:
            BadSampleError: the picture cannot be used.
        """
        ...


def input_masks(folder: Path, names: Sequence[str], per_object: bool) -> InputMasks:
    """The masks in a folder.

    Args:
        names: of the video's frames, in order, without suffix. A mask has the name of its frame; numbers may be written
            with any number of zeros before them.
        per_object: ``folder/OBJECT/FRAME.png`` instead of ``folder/FRAME.png``.

    Raises:
        VosError, BadSampleError: there is no such folder; two files are for one frame, or two folders for one object.
    """
    return PerObjectMasks(folder, names) if per_object else PaletteMasks(folder, names)


class PaletteMasks:
    """One PNG for a frame; its indices are the objects' ids, 0 the background. See :class:`InputMasks`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names, self._files = folder, names, _files_of(folder, names)

    def frames(self) -> list[int]:
        """See :class:`InputMasks`."""
        return sorted(self._files)

    def visible(self, frame: int, known: Collection[int] = ()) -> list[int]:
        """See :class:`InputMasks`."""
        return [i for i in _ids(self._labels(frame)) if i not in known]

    def read(self, frame: int, only: Collection[int] | None = None) -> dict[int, Mask]:
        """See :class:`InputMasks`."""
        labels = self._labels(frame)
        return {i: labels == i for i in (_ids(labels) if only is None else sorted(only))}

    def colours(self, frame: int) -> bytes | None:
        """See :class:`InputMasks`."""
        return _colours(self._files[frame]) if frame in self._files else None

    def _labels(self, frame: int) -> NDArray[np.uint8]:
        if frame not in self._files:
            raise VosError(_missing(self._folder / f"{self._names[frame]}.png"))
        return _read(self._files[frame])


class PerObjectMasks:
    """A folder for each object, named by its id, with a PNG for each frame; what is not 0 is the object.

    See :class:`InputMasks`.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._names = names
        self._folders: dict[int, Path] = {}
        for path in _folders_in(folder):
            if not path.name.isdecimal():
                raise VosError(f"{path}: the folder of an object's masks must be named by its number, such as 003")
            other = self._folders.setdefault(int(path.name), path)
            if other is not path:
                raise VosError(f"{folder}: {other.name} and {path.name} are the same object")
        if not self._folders:
            raise VosError(f"{folder} has no folders of objects, such as 001; palette pictures are the other layout")
        self._files = {i: _files_of(path, names) for i, path in sorted(self._folders.items())}

    def frames(self) -> list[int]:
        """See :class:`InputMasks`."""
        return sorted({frame for files in self._files.values() for frame in files})

    def visible(self, frame: int, known: Collection[int] = ()) -> list[int]:
        """See :class:`InputMasks`."""
        there = (i for i, files in self._files.items() if frame in files and i not in known)
        return [i for i in there if _read(self._files[i][frame]).any()]

    def read(self, frame: int, only: Collection[int] | None = None) -> dict[int, Mask]:
        """See :class:`InputMasks`."""
        asked = list(self._files) if only is None else sorted(only)
        for i in asked:
            if frame not in self._files[i]:
                raise VosError(_missing(self._folders[i] / f"{self._names[frame]}.png"))
        return {i: _read(self._files[i][frame]) != 0 for i in asked}

    def colours(self, frame: int) -> bytes | None:
        """See :class:`InputMasks`."""
        there = [files[frame] for files in self._files.values() if frame in files]
        return _colours(there[-1]) if there else None


def _files_of(folder: Path, names: Sequence[str]) -> dict[int, Path]:
    """The masks of a folder by the index of their frames; files that no frame is named like are left alone."""
    files = list_files(folder, MASK_SUFFIXES)
    keys = (_key(name) for name in names)
    return {index: files[key] for index, key in enumerate(keys) if key in files}


def _key(name: str) -> FrameKey:
    return int(name) if name.isdecimal() else name


def _folders_in(folder: Path) -> list[Path]:
    try:
        return list_folders(folder)
    except OSError as error:
        raise VosError(f"{folder}: {error.strerror or error}") from error


def _missing(path: Path) -> str:
    return f"there is no input mask {path}; for videos whose objects do not all appear on its frame give --late-objects"


def _read(path: Path) -> NDArray[np.uint8]:
    labels = read_labels(path)
    if labels.dtype == np.uint8:
        with open_picture(path) as picture:
            bilevel = picture.mode == "1"  # whose white is 255 by then, but object 1 is meant
        return (labels != 0).astype(np.uint8) if bilevel else labels.view(np.uint8)
    if labels.min() < 0 or labels.max() >= COLOURS:
        raise VosError(f"{path}: ids go up to {labels.max()}; a palette picture has room for ids up to {COLOURS - 1}")
    return labels.astype(np.uint8)


def _ids(labels: NDArray[np.uint8]) -> list[int]:
    # Counting is twice as fast as sorting, where there are few values.
    return [int(i) for i in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if i]


def _colours(path: Path) -> bytes | None:
    read_labels(path)  # which says in its own way what is wrong with it
    with open_picture(path) as picture:
        return palette_of(picture)
