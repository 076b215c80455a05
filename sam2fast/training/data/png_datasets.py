"""Data sets with masks in PNG files: DAVIS, MOSE, one folder per object, and images with masks."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sam2fast.datasets.dataset_files import (
    FRAME_SUFFIXES,
    MASK_SUFFIXES,
    FrameKey,
    has_files,
    list_entries,
    list_files,
    list_folders,
    object_folders,
    object_number,
)
from sam2fast.datasets.frame_annotations import MaskImages
from sam2fast.io.image_names import distinct_stems, pair_masks, similar_path
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.raw_dataset import (
    MAX_NAMED,
    FolderVideo,
    NamedVideoDataset,
    NameLists,
    PathLike,
    check_num_frames,
    image_as_video,
    raise_if_any,
    refuse_left_out,
    refuse_without_frames,
    require_folder,
    select_names,
)

FRAME_FILES = "<video>/<frame>.jpg or .png"
IMAGE_FILES = "<name>.jpg or .png"
MASKS = "<name>.png, or <name>/<object>.png"
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff", ".webp")


class PNGRawDataset(NamedVideoDataset):
    """Videos ``img_folder/<video>/<frame>.jpg`` (or ``.png``) with masks in ``gt_folder``.

    Masks are ``gt_folder/<video>/<frame>.png``, with object ids as palette indices or grey levels. If ``is_palette`` is
    False, masks are ``gt_folder/<video>/<object>/<frame>.png``, and the object id is the folder's number plus one.
    The mask of a frame is the mask file with the same number. Follows
    ``training.dataset.vos_raw_dataset.PNGRawDataset``.

    Args:
        single_object_mode: if True, treats the folder of each object's masks as a separate video.
        truncate_video: number of frames used from the start of each video; if not positive, all frames are used.
        frames_sampling_mult: if True, repeats each video as many times as it has frames.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: NameLists = None,
        sample_rate: int = 1,
        is_palette: bool = True,
        single_object_mode: bool = False,
        truncate_video: int = -1,
        frames_sampling_mult: bool = False,
    ) -> None:
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1, got {sample_rate}")
        self.img_folder = require_folder("img_folder", img_folder, FRAME_FILES)
        masks = "<video>/<object>/<frame>.png" if single_object_mode or not is_palette else "<video>/<frame>.png"
        self.gt_folder = require_folder("gt_folder", gt_folder, masks)
        self.sample_rate, self.truncate_video = sample_rate, truncate_video
        self.is_palette, self.single_object_mode = is_palette, single_object_mode

        present = {path.name for path in list_folders(self.img_folder)}
        lists, expected = (file_list_txt, excluded_videos_list_txt), "one folder of .jpg or .png frames per video"
        names = select_names(present, self.img_folder, expected, *lists, "videos")
        empty = [name for name in names if not has_files(self.img_folder / name, FRAME_SUFFIXES)]
        refuse_without_frames(empty, names, self.img_folder, FRAME_FILES)
        self._check_masks(names, masks)
        if single_object_mode:
            names = sorted(f"{name}/{path.name}" for name in names for path in list_folders(self._masks_of(name)))
        if frames_sampling_mult:
            counts = {name: len(list_files(self._frame_folder(name), FRAME_SUFFIXES)) for name in names}
            names = [name for name in names for _ in range(counts[name])]
        self.video_names = names

    def get_video(self, idx: int) -> FolderVideo:
        name = self.video_names[idx]
        files = list(list_files(self._frame_folder(name), FRAME_SUFFIXES).items())
        stop = self.truncate_video if self.truncate_video > 0 else len(files)
        positions = range(len(files))[:stop][:: self.sample_rate]
        return FolderVideo(name, tuple(files[i] for i in positions), tuple(positions), self._annotations(name))

    def _frame_folder(self, name: str) -> Path:
        return self.img_folder / (os.path.dirname(name) if self.single_object_mode else name)

    def _masks_of(self, name: str) -> Path:
        return similar_path(self.gt_folder, name)

    def _annotations(self, name: str) -> MaskImages:
        folder = self._masks_of(name)
        if self.is_palette:
            return MaskImages({None: list_files(folder)}, folder)
        folders = {object_number(folder): folder} if self.single_object_mode else object_folders(folder)
        return MaskImages({number + 1: list_files(path) for number, path in folders.items()}, folder)

    def _check_masks(self, names: Sequence[str], expected: str) -> None:
        def has_masks(folder: Path) -> bool:
            by_object = not self.is_palette or self.single_object_mode
            return any(has_files(path, MASK_SUFFIXES) for path in (list_folders(folder) if by_object else [folder]))

        folders = {name: self._masks_of(name) for name in names}
        present = ", ".join(sorted(path.name for path in list_entries(self.gt_folder))[:MAX_NAMED])
        raise_if_any(
            [name for name, folder in folders.items() if not folder.is_dir()],
            f"of {len(names)} videos have no folder in gt_folder {self.gt_folder}",
            f"Expected {expected} there, found {present or 'nothing'}. To leave videos out, use file_list_txt or "
            "excluded_videos_list_txt.",
        )
        raise_if_any(
            [name for name, folder in folders.items() if not has_masks(folder)],
            f"of {len(names)} videos have no masks in gt_folder {self.gt_folder}",
            f"Expected {expected} there, as is_palette is {self.is_palette}.",
        )


class MaskFolderRawDataset(NamedVideoDataset):
    """Images ``img_folder/<name>.jpg`` (or ``.png``) with masks in ``gt_folder``, as videos of identical frames.

    The masks of an image are either ``<name>.png``, a palette or grey image in which every nonzero value is an object,
    or ``<name>/*.png``, one image per object with nonzero pixels for the object. ``gt_folder`` may contain both mask
    files and folders of masks. Images are rotated by their EXIF orientation, and masks have the size of the rotated
    image. Masks must have hard
    edges, because every grey value of a soft edge would be a separate object. Reading a white mask with soft edges is
        an error.

    If ``file_list_txt`` is not set, images in other formats than JPEG and PNG are an error. An image with both a mask
    file and a folder of masks is an error.

    Args:
        ignored_labels: mask values that are not objects, such as 255 for unlabeled pixels.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: NameLists = None,
        num_frames: int = 1,
        ignored_labels: Sequence[int] = (),
    ) -> None:
        self.img_folder = require_folder("img_folder", img_folder, IMAGE_FILES)
        self.gt_folder = require_folder("gt_folder", gt_folder, MASKS)
        self.num_frames, self.ignored_labels = check_num_frames(num_frames), tuple(ignored_labels)
        files = sorted(path for path in list_entries(self.img_folder) if path.suffix.lower() in FRAME_SUFFIXES)
        images = dict(zip(distinct_stems([path.name for path in files]), files, strict=True))
        if file_list_txt is None:
            others = [path for path in list_entries(self.img_folder) if path.suffix.lower() in OTHER_SUFFIXES]
            refuse_left_out(others, "images", self.img_folder, IMAGE_FILES)
        lists = file_list_txt, excluded_videos_list_txt
        names = select_names(images, self.img_folder, IMAGE_FILES, *lists, "images")
        self.video_names, self.images = names, [images[name] for name in names]
        self._masks = self._find_masks()

    def get_video(self, idx: int) -> FolderVideo:
        name = self.video_names[idx]
        masks = self._masks[name]
        if masks.is_dir():  # numbers the object files from 1, in the order of the files' numbers and names
            files: dict[int | None, dict[FrameKey, Path]] = {
                i: {0: path} for i, path in enumerate(list_files(masks).values(), 1)
            }
        else:
            files = {None: {0: masks}}
        annotations = MaskImages(files, self.gt_folder, self.ignored_labels)
        return image_as_video(name, self.images[idx], annotations, self.num_frames)

    def _find_masks(self) -> dict[str, Path]:
        """Returns the paths of label images and folders of masks by image name."""
        folders = {path.name: path for path in list_entries(self.gt_folder) if path.is_dir()}
        files = [path for path in list_entries(self.gt_folder) if path.suffix.lower() in MASK_SUFFIXES]
        labels = self._of_images(_by_name(self.gt_folder, (path for path in files if path.name not in folders)))
        of_objects = self._of_images(folders)
        of_objects = {name: path for name, path in of_objects.items() if has_files(path, MASK_SUFFIXES)}
        raise_if_any(
            [n for n, path in of_objects.items() if has_files(path, (*OTHER_SUFFIXES, ".jpg", ".jpeg"))],
            f"folders of masks in gt_folder {self.gt_folder} have images that are not PNG",
            "Save every object's mask as a PNG.",
        )
        total, names = len(self.video_names), self.video_names
        raise_if_any(
            [name for name in names if name not in labels and name not in of_objects],
            f"of {total} images have no masks in gt_folder {self.gt_folder}",
            f"Expected {MASKS} there. To leave images out, use file_list_txt or excluded_videos_list_txt.",
        )
        raise_if_any(
            [name for name in names if name in labels and name in of_objects],
            f"of {total} images have both an image of labels and a folder of masks in gt_folder {self.gt_folder}",
            "Leave one.",
        )
        return {**labels, **of_objects}

    def _of_images(self, masks: Mapping[str, Path]) -> dict[str, Path]:
        """Returns the masks of the selected images by image name; see :func:`~sam2fast.io.image_names.pair_masks`."""
        names = {image.name: name for image, name in zip(self.images, self.video_names, strict=True)}
        owners = pair_masks(masks, names, self.img_folder)
        if owners.unclear:
            raise DataError(f"gt_folder {self.gt_folder}: {next(iter(owners.unclear.values()))}")
        found = {names[image]: [masks[name] for name, _ in of_image] for image, of_image in owners.owned.items()}
        for name, paths in found.items():
            if len(paths) > 1:
                raise DataError(f"{self.gt_folder}: {paths[0].name} and {paths[1].name} are both masks of {name}")
        return {name: path for name, (path,) in found.items()}


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Returns a mapping from stems to files."""
    named: dict[str, Path] = {}
    for path in sorted(paths):
        if path.stem in named:
            raise DataError(f"{folder}: {named[path.stem].name} and {path.name} have the same name")
        named[path.stem] = path
    return named
