"""One's own pictures with masks as PNGs: the simplest layout to fine-tune on."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.training.data.errors import DataError
from sam2fast.training.data.files import (
    FRAME_SUFFIXES,
    MASK_SUFFIXES,
    Annotations,
    FrameKey,
    check_size,
    has_files,
    labels_in,
    list_entries,
    list_files,
    read_labels,
)
from sam2fast.training.data.folders import FolderVideo
from sam2fast.training.data.lists import Lists, PathLike, choose_names, existing_folder, refuse
from sam2fast.training.data.stills import check_num_frames, still_video

PICTURES = "<name>.jpg or .png"
MASKS = "<name>.png, or <name>/<object>.png"


class LabelAnnotations:
    """One picture of labels: every value is an object, but 0 and those that are ignored."""

    def __init__(self, path: Path, ignored: Collection[int] = ()) -> None:
        self._path, self._ignored = path, frozenset(ignored)

    @cached_property
    def _labels(self) -> NDArray[np.generic]:
        return read_labels(self._path)

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        return tuple(label for label in labels_in(self._labels) if label not in self._ignored)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        check_size(self._path, self._labels, size)
        return self._labels == np.array(object_ids)[:, None, None]


class ObjectPictureAnnotations:
    """A picture for each object: what is not 0. Ids count the files from 1: by number, then by name."""

    def __init__(self, folder: Path) -> None:
        self._files = dict(enumerate(list_files(folder, MASK_SUFFIXES).values(), start=1))
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        return tuple(i for i in self._files if self._mask(i).any())

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.training.data.files.Annotations`."""
        for i in object_ids:
            check_size(self._files[i], self._mask(i), size)
        return np.stack([self._mask(i) for i in object_ids])

    def _mask(self, i: int) -> NDArray[np.bool_]:
        if i not in self._masks:
            self._masks[i] = read_labels(self._files[i]) != 0
        return self._masks[i]


class MaskFolderRawDataset:
    """Pictures ``img_folder/<name>.jpg`` (or ``.png``) with masks in ``gt_folder``, as videos of equal frames.

    A picture's masks are either ``<name>.png``, a palette or grey picture in which every value but 0 is an object, so
    that black and white is one object; or ``<name>/*.png``, a picture for each object, in which all that is not 0 is
    the object. Both ways may be used in one folder. Masks have their picture's size, and hard edges: soft ones would be
    many objects.

    Args:
        file_list_txt: takes only the pictures named in it, one a line; their file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        num_frames: of each video.
        ignored_labels: values that are no objects, such as 255 for what is not labelled.

    Raises:
        DataError: no such folder or list, no pictures, pictures without masks, or with both kinds of them; names what
            was expected where.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: Lists = None,
        num_frames: int = 1,
        ignored_labels: Sequence[int] = (),
    ) -> None:
        self.img_folder = existing_folder("img_folder", img_folder, PICTURES)
        self.gt_folder = existing_folder("gt_folder", gt_folder, MASKS)
        self.num_frames, self.ignored_labels = check_num_frames(num_frames), tuple(ignored_labels)
        pictures = _pictures(self.img_folder)
        expected = f"{PICTURES} in img_folder"
        names = choose_names(pictures, self.img_folder, expected, file_list_txt, excluded_videos_list_txt, "pictures")
        refuse(
            [name for name in names if name not in pictures],
            f"of the {len(names)} pictures listed in {file_list_txt} are not in img_folder {self.img_folder}",
            f"Expected {PICTURES} there.",
        )
        self.video_names, self.pictures = names, [pictures[name] for name in names]
        self._check_masks()

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.img_folder)

    def __len__(self) -> int:
        return len(self.video_names)

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th picture; its masks are read when they are asked for.

        Raises:
            BadSampleError: the folder of its masks cannot be read.
        """
        name = self.video_names[idx]
        labels = self.gt_folder / f"{name}.png"
        annotations: Annotations
        if labels.is_file():
            annotations = LabelAnnotations(labels, self.ignored_labels)
        else:
            annotations = ObjectPictureAnnotations(self.gt_folder / name)
        return still_video(name, self.pictures[idx], annotations, self.num_frames)

    def _check_masks(self) -> None:
        entries = {path.name: path for path in list_entries(self.gt_folder)}
        folders = {name: path for name, path in entries.items() if path.is_dir()}
        of_objects = {n for n in self.video_names if n in folders and has_files(folders[n], MASK_SUFFIXES)}
        of_labels = {n for n in self.video_names if f"{n}.png" in entries}
        total, names = len(self.video_names), self.video_names
        refuse(
            [name for name in names if name not in of_labels | of_objects],
            f"of {total} pictures have no masks in gt_folder {self.gt_folder}",
            f"Expected {MASKS} there. To leave pictures out, use file_list_txt or excluded_videos_list_txt.",
        )
        refuse(
            [name for name in names if name in of_labels & of_objects],
            f"of {total} pictures have both a picture of labels and a folder of masks in gt_folder {self.gt_folder}",
            "Leave one.",
        )


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by name."""
    pictures: dict[str, Path] = {}
    for path in sorted(path for path in list_entries(folder) if path.suffix.lower() in FRAME_SUFFIXES):
        if path.stem in pictures:
            raise DataError(f"{folder}: {pictures[path.stem].name} and {path.name} have the same name")
        pictures[path.stem] = path
    return pictures
