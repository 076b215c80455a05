"""Shared parts of the raw data sets: video names, frame files, folder checks and their errors.

Functions that check folders raise :class:`DataError` with the folder's path and the files expected in the folder.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import FrameKey, read_frame
from sam2fast.datasets.frame_annotations import Annotations
from sam2fast.io.image_names import FolderImages, ImageNameError, find_files
from sam2fast.io.images import SUFFIXES
from sam2fast.training.data.clip import DataError

PathLike: TypeAlias = str | os.PathLike[str]
NameLists: TypeAlias = PathLike | Sequence[PathLike] | None

MAX_NAMED = 5  # maximum number of names in an error message


class NamedVideoDataset(ABC):
    """Base class of data sets with named videos. A data set of images treats each image as a video of identical frames.

    Constructors raise :class:`DataError` if a folder or list is missing, there are no videos, or frames or masks are
    missing. Subclasses have the following arguments in common.

    Args:
        file_list_txt: file with the names of the videos to use, one per line; file extensions are ignored.
        excluded_videos_list_txt: one or several files with the names of videos to exclude.
        sample_rate: interval between the frames used; every ``sample_rate``-th frame of a video is used.
        num_frames: number of identical frames in the video that is made from an image.

    Attributes:
        img_folder: folder with the videos' frames or with the images.
        video_names: names of the selected videos, in the order of video numbers.
    """

    img_folder: Path
    video_names: list[str]

    @property
    def name(self) -> str:
        return str(self.img_folder)

    def __len__(self) -> int:
        return len(self.video_names)

    @abstractmethod
    def get_video(self, idx: int) -> "FolderVideo":
        """Returns video number ``idx``. Files are decoded on access. Unreadable files raise ``DatasetError``."""


def require_folder(argument: str, folder: PathLike | None, expected: str) -> Path:
    """Returns ``folder`` as a path, or raises ``DataError`` with a description of the ``expected`` content."""
    if folder is None:  # folder is None if the configuration does not set it
        raise DataError(f"{argument} is not set: it must be a folder with {expected}")
    if not Path(folder).is_dir():
        raise DataError(f"{argument} {folder} is not a folder: expected {expected} in it")
    return Path(folder)


def read_list(argument: str, path: PathLike, present: Collection[str], folder: Path) -> list[str]:
    """Reads names from a text file, one per line, without file extensions. Names in ``present`` keep extensions.

    Names that are not in ``present``, such as Windows' paths, stand for similar names in ``folder``; see
    :class:`~sam2fast.io.image_names.FolderImages`.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{argument} {path} cannot be read, expected one video name per line: {error}") from error
    names = [line.strip() for line in lines]
    names = [name if name in present else os.path.splitext(name)[0] for name in names if name]
    known = FolderImages(present if any(name not in present for name in names) else (), folder)
    try:
        found = {name: known.find(name) for name in names if name not in present}
    except ImageNameError as error:
        raise DataError(f"{argument} {path}: {error}") from error
    similar = {name: one.image for name, one in found.items() if one and (one.match.is_whole or one.match.common > 1)}
    return [similar.get(name, name) for name in names]


def select_names(
    present: Iterable[str],
    folder: Path,
    expected: str,
    file_list_txt: PathLike | None,
    excluded: NameLists,
    what: str,
    must_exist: bool = True,
) -> list[str]:
    """Returns the sorted names of the selected videos or images.

    Args:
        present: Names of the videos or images in ``folder``.
        expected, what: Description of the expected files, and "videos" or "images", for error messages.
        must_exist: If True, raises ``DataError`` if ``file_list_txt`` has names that are not in ``present``.
    """
    known = set(present)
    names = list(known) if file_list_txt is None else read_list("file_list_txt", file_list_txt, known, folder)
    lists = [] if excluded is None else [excluded] if isinstance(excluded, str | os.PathLike) else list(excluded)
    unwanted = {name for path in lists for name in read_list("excluded_videos_list_txt", path, known, folder)}
    names = sorted(name for name in names if name not in unwanted)
    if not names:
        source = folder if file_list_txt is None else file_list_txt
        excluding = " that is not excluded" if lists else ""
        raise DataError(f"there are no {what} in {source}: expected {expected}{excluding}")
    raise_if_any(
        [name for name in names if must_exist and name not in known],
        f"of the {len(names)} {what} listed in {file_list_txt} are not in img_folder {folder}",
        f"Expected {expected} there.",
    )
    return names


def require_files(
    names: Sequence[str], argument: str, folder: Path, suffix: str, what: str, problem: str = ""
) -> Mapping[str, str]:
    """Returns the paths in the folder of files ``folder/<name><suffix>`` that have similar names instead.

    Raises ``DataError`` if a name has no file; see :func:`~sam2fast.io.image_names.find_files`. ``what`` is "videos" or
    "images". ``problem`` replaces the description of missing files.
    """
    found = find_files([f"{name}{suffix}" for name in names], folder, (suffix,) if suffix else SUFFIXES)
    if found.unclear:
        raise DataError(f"{argument} {folder}: {next(iter(found.unclear.values()))}")
    kind = "video" if what == "videos" else "name"
    expected = f"Expected {'these names' if problem else f'<{kind}>{suffix}'} there. To leave {what} out, use "
    expected += "file_list_txt or excluded_videos_list_txt."
    problem = problem or f"have no {suffix} file in {argument} {folder}"
    raise_if_any([name.removesuffix(suffix) for name in found.missing], f"of {len(names)} {what} {problem}", expected)
    return found.renamed


def refuse_without_frames(empty: Sequence[str], names: Sequence[str], folder: Path, expected: str) -> None:
    """Raises ``DataError`` if ``empty``, the names of videos without frames, is not empty."""
    problem = f"of {len(names)} videos have no frames in img_folder {folder}"
    raise_if_any(empty, problem, f"Expected {expected} there.")


def refuse_left_out(paths: Iterable[Path], what: str, folder: Path, expected: str) -> None:
    """Raises ``DataError`` if there are ``paths`` with unsupported formats. ``what`` is "videos" or "images"."""
    raise_if_any(
        sorted(path.name for path in paths),
        f"{what} in img_folder {folder} are not {expected}",
        "Convert or rename them, or list the files to use in file_list_txt.",
    )


def raise_if_any(offenders: Sequence[str], problem: str, expected: str) -> None:
    """Raises ``DataError`` if ``offenders`` is not empty. The message lists up to ``MAX_NAMED`` of these names."""
    if offenders:
        more = f" and {len(offenders) - MAX_NAMED} more" if len(offenders) > MAX_NAMED else ""
        raise DataError(f"{len(offenders)} {problem}: {', '.join(offenders[:MAX_NAMED])}{more}. {expected}")


@dataclass(frozen=True)
class FolderVideo:
    """Video stored as image files. Frames and masks are decoded on access."""

    name: str
    frames: tuple[tuple[FrameKey, Path], ...]
    frame_indices: tuple[int, ...]  # positions of the frames in the video or folder
    annotations: Annotations
    upright: bool = False  # if True, rotates frames by their EXIF orientation

    def __len__(self) -> int:
        return len(self.frames)

    def visible_objects(self, position: int) -> tuple[int, ...]:
        """Returns the ids of the objects that have a mask in frame number ``position``."""
        return self.annotations.visible_objects(self.frames[position][0])

    def read_frames(self, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Reads frames ``(H, W, 3)`` uint8 RGB. A file that is used by several frames is read once."""
        paths = [self.frames[position][1] for position in positions]
        read = {path: read_frame(path, self.upright) for path in dict.fromkeys(paths)}
        return [read[path] for path in paths]

    def read_masks(self, position: int, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Reads masks ``(O, H, W)`` of the ``position``-th frame with ``size`` (height, width)."""
        return self.annotations.read_masks(self.frames[position][0], object_ids, size)


def image_as_video(name: str, path: Path, annotations: Annotations, num_frames: int) -> FolderVideo:
    """Returns a video of ``num_frames`` identical frames of an image, rotated by its EXIF orientation."""
    return FolderVideo(name, ((0, path),) * num_frames, tuple(range(num_frames)), annotations, upright=True)


def check_num_frames(num_frames: int) -> int:
    """Returns ``num_frames``, or raises ``ValueError`` if it is less than 1."""
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return num_frames
