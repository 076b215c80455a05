"""Videos in folders with masks as PNGs: the layouts of DAVIS and MOSE, and of one folder per object."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.files import (
    FRAME_SUFFIXES,
    MASK_SUFFIXES,
    FrameKey,
    has_files,
    list_entries,
    list_files,
    list_folders,
    object_folders,
    object_number,
    read_frame,
)
from sam2fast.datasets.frame_masks import Annotations, PaletteAnnotations, PerObjectAnnotations
from sam2fast.training.data.lists import NAMED, Lists, NamedVideos, PathLike, choose_present, existing_folder, refuse

FRAME_FILES = "<video>/<frame>.jpg or .png"


@dataclass(frozen=True)
class FolderVideo:
    """One video's files; nothing is decoded before it is asked for."""

    name: str
    frames: tuple[tuple[FrameKey, Path], ...]
    frame_indices: tuple[int, ...]  # of the frames in their folder
    annotations: Annotations
    upright: bool = False  # whether frames are turned by their EXIF orientation

    def __len__(self) -> int:
        return len(self.frames)

    def visible_objects(self, position: int) -> tuple[int, ...]:
        """Ids of the objects with a mask in the ``position``-th frame."""
        return self.annotations.visible_objects(self.frames[position][0])

    def read_frames(self, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Frames as ``(H, W, 3)`` RGB; a file that stands for several is read once."""
        paths = [self.frames[position][1] for position in positions]
        read = {path: read_frame(path, self.upright) for path in dict.fromkeys(paths)}
        return [read[path] for path in paths]

    def read_masks(self, position: int, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Masks ``(O, H, W)`` in the ``position``-th frame, of ``size`` (height, width)."""
        return self.annotations.read_masks(self.frames[position][0], object_ids, size)


def still_video(name: str, path: Path, annotations: Annotations, num_frames: int, upright: bool = False) -> FolderVideo:
    """An image as a video of equal frames, ``upright`` if it is rotated by its EXIF orientation."""
    return FolderVideo(name, ((0, path),) * num_frames, tuple(range(num_frames)), annotations, upright)


def check_num_frames(num_frames: int) -> int:
    """``num_frames``, if it is at least 1; else raises ``ValueError``."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return num_frames


class PNGRawDataset(NamedVideos):
    """Videos as ``img_folder/<video>/<frame>.jpg`` (or ``.png``) with masks in ``gt_folder``.

    Masks are ``gt_folder/<video>/<frame>.png`` with the objects' ids as palette indices or grey levels, or, with
    ``is_palette`` off, ``gt_folder/<video>/<object>/<frame>.png`` with ids one above the folders' numbers. Frames and
    masks belong together by number. Follows the official ``training.dataset.vos_raw_dataset.PNGRawDataset``.

    Args:
        file_list_txt: takes only the videos named in it, one a line; their file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        sample_rate: takes every ``sample_rate``-th frame.
        single_object_mode: makes every object's folder a video of its own.
        truncate_video: takes only so many frames from the start, if positive.
        frames_sampling_mult: repeats every video as often as it has frames.

    Raises:
        DataError: no such folder or list, no videos, or videos without frames or masks; names what was expected where.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: Lists = None,
        sample_rate: int = 1,
        is_palette: bool = True,
        single_object_mode: bool = False,
        truncate_video: int = -1,
        frames_sampling_mult: bool = False,
    ) -> None:
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1, got {sample_rate}")
        self.img_folder = existing_folder("img_folder", img_folder, FRAME_FILES)
        masks = "<video>/<object>/<frame>.png" if single_object_mode or not is_palette else "<video>/<frame>.png"
        self.gt_folder = existing_folder("gt_folder", gt_folder, masks)
        self.sample_rate, self.truncate_video = sample_rate, truncate_video
        self.is_palette, self.single_object_mode = is_palette, single_object_mode

        names = self._choose(file_list_txt, excluded_videos_list_txt)
        self._check_frames(names)
        self._check_masks(names, masks)
        if single_object_mode:
            names = sorted(f"{name}/{path.name}" for name in names for path in list_folders(self.gt_folder / name))
        if frames_sampling_mult:
            counts = {name: len(list_files(self._frame_folder(name), FRAME_SUFFIXES)) for name in names}
            names = [name for name in names for _ in range(counts[name])]
        self.video_names = names

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th video's files.

        Raises:
            DatasetError: its folders changed, or an object's folder is not a number.
        """
        name = self.video_names[idx]
        files = list(list_files(self._frame_folder(name), FRAME_SUFFIXES).items())
        stop = self.truncate_video if self.truncate_video > 0 else len(files)
        chosen = range(len(files))[:stop][:: self.sample_rate]
        return FolderVideo(name, tuple(files[i] for i in chosen), tuple(chosen), self._annotations(name))

    def _frame_folder(self, name: str) -> Path:
        return self.img_folder / (os.path.dirname(name) if self.single_object_mode else name)

    def _annotations(self, name: str) -> Annotations:
        folder = self.gt_folder / name
        if self.is_palette:
            return PaletteAnnotations(list_files(folder), folder)
        folders = {object_number(folder): folder} if self.single_object_mode else object_folders(folder)
        return PerObjectAnnotations({number + 1: list_files(path) for number, path in folders.items()})

    def _choose(self, file_list: PathLike | None, excluded: Lists) -> list[str]:
        """Names of the videos, sorted."""
        present = {path.name for path in list_folders(self.img_folder)}
        expected = "one folder of .jpg or .png frames per video"
        return choose_present(present, self.img_folder, expected, file_list, excluded, "videos")

    def _check_frames(self, names: Sequence[str]) -> None:
        empty = [name for name in names if not has_files(self.img_folder / name, FRAME_SUFFIXES)]
        refuse(
            empty,
            f"of {len(names)} videos have no frames in img_folder {self.img_folder}",
            f"Expected {FRAME_FILES} there.",
        )

    def _check_masks(self, names: Sequence[str], expected: str) -> None:
        folders = {name: self.gt_folder / name for name in names}
        found = ", ".join(sorted(path.name for path in list_entries(self.gt_folder))[:NAMED])
        refuse(
            [name for name, folder in folders.items() if not folder.is_dir()],
            f"of {len(names)} videos have no folder in gt_folder {self.gt_folder}",
            f"Expected {expected} there, found {found or 'nothing'}. To leave videos out, use file_list_txt or "
            "excluded_videos_list_txt.",
        )
        refuse(
            [name for name, folder in folders.items() if not self._has_masks(folder)],
            f"of {len(names)} videos have no masks in gt_folder {self.gt_folder}",
            f"Expected {expected} there, as is_palette is {self.is_palette}.",
        )

    def _has_masks(self, folder: Path) -> bool:
        by_object = not self.is_palette or self.single_object_mode
        return any(has_files(path, MASK_SUFFIXES) for path in (list_folders(folder) if by_object else [folder]))
