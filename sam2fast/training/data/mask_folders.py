"""One's own pictures with masks as PNGs: the simplest layout to fine-tune on."""

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sam2fast.datasets.files import (
    FRAME_SUFFIXES,
    MASK_SUFFIXES,
    has_files,
    list_entries,
    list_files,
)
from sam2fast.datasets.frame_masks import Annotations, PaletteAnnotations, PerObjectAnnotations
from sam2fast.io.images import open_picture
from sam2fast.training.data.errors import DataError
from sam2fast.training.data.folders import FolderVideo, check_num_frames, still_video
from sam2fast.training.data.lists import Lists, NamedVideos, PathLike, choose_present, existing_folder, refuse

PICTURES = "<name>.jpg or .png"
MASKS = "<name>.png, or <name>/<object>.png"
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff", ".webp")
SUSPICIOUS_VALUES = 64  # in one grey mask: rather soft edges than so many objects

_log = logging.getLogger(__name__)


class MaskFolderRawDataset(NamedVideos):
    """Pictures ``img_folder/<name>.jpg`` (or ``.png``) with masks in ``gt_folder``, as videos of equal frames.

    A picture's masks are either ``<name>.png``, a palette or grey picture in which every value but 0 is an object, so
    that black and white is one object; or ``<name>/*.png``, a picture for each object, in which all that is not 0 is
    the object. Both ways may be used in one folder. Pictures are turned upright by their EXIF orientation. Masks have
    the size that their picture has then, and hard edges: soft ones would be many objects, and the first grey mask with
    more than 64 values is warned of.

    Args:
        file_list_txt: takes only the pictures named in it, one a line; their file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        num_frames: of each video.
        ignored_labels: values that are no objects, such as 255 for what is not labelled.

    Raises:
        DataError: no such folder or list, no pictures, pictures of another format while there is no
            ``file_list_txt``, pictures without masks, or with both kinds of them; names what was expected where.
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
        pictures = _by_name(self.img_folder, list_entries(self.img_folder), FRAME_SUFFIXES)
        if file_list_txt is None:
            _refuse_other_formats(self.img_folder)
        lists = file_list_txt, excluded_videos_list_txt
        names = choose_present(pictures, self.img_folder, PICTURES, *lists, "pictures")
        self.video_names, self.pictures = names, [pictures[name] for name in names]
        self._labels = self._find_masks()
        self._has_warned = False

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th picture; its masks are read when they are asked for.

        Raises:
            DatasetError: the folder of its masks cannot be read.
        """
        name = self.video_names[idx]
        annotations: Annotations
        if name in self._labels:
            path = self._labels[name]
            annotations = PaletteAnnotations({0: path}, path, self.ignored_labels, self._warn_of_soft_edges)
        else:
            files = list_files(self.gt_folder / name).values()  # ids count them from 1: by number, then by name
            annotations = PerObjectAnnotations({i: {0: path} for i, path in enumerate(files, 1)})
        return still_video(name, self.pictures[idx], annotations, self.num_frames, upright=True)

    def _warn_of_soft_edges(self, path: Path, values: int) -> None:
        """Once in each process; a palette has no edges to soften."""
        if self._has_warned or values <= SUSPICIOUS_VALUES:
            return
        with open_picture(path) as image:
            if image.mode == "P":
                return
        self._has_warned = True
        _log.warning(
            "%s is a grey mask with %d values, and each is taken for an object; if its edges are soft, make them hard, "
            "such as by a threshold",
            path,
            values,
        )

    def _find_masks(self) -> dict[str, Path]:
        """Pictures of labels by name; the other pictures have folders of masks."""
        entries = list(list_entries(self.gt_folder))
        folders = {path.name: path for path in entries if path.is_dir()}
        labels = _by_name(self.gt_folder, (path for path in entries if path.name not in folders), MASK_SUFFIXES)
        of_objects = {n for n in self.video_names if n in folders and has_files(folders[n], MASK_SUFFIXES)}
        of_labels = {n for n in self.video_names if n in labels}
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
        return {name: labels[name] for name in of_labels}


def _by_name(folder: Path, paths: Iterable[Path], suffixes: Collection[str]) -> dict[str, Path]:
    """Those of a folder's files that have such a suffix, by name."""
    named: dict[str, Path] = {}
    for path in sorted(path for path in paths if path.suffix.lower() in suffixes):
        if path.stem in named:
            raise DataError(f"{folder}: {named[path.stem].name} and {path.name} have the same name")
        named[path.stem] = path
    return named


def _refuse_other_formats(folder: Path) -> None:
    refuse(
        sorted(path.name for path in list_entries(folder) if path.suffix.lower() in OTHER_SUFFIXES),
        f"pictures in img_folder {folder} are neither JPEG nor PNG",
        "Convert them, or name in file_list_txt the pictures to use.",
    )
