"""Data sets with masks in JSON files: SA-V, SA-1B and COCO."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import (
    FRAME_SUFFIXES,
    VIDEO_SUFFIXES,
    DatasetError,
    has_files,
    list_entries,
    list_files,
    read_frame_size,
)
from sam2fast.datasets.frame_annotations import MaskletAnnotations, SegmentAnnotations
from sam2fast.datasets.frame_files import count_frames, decode_video_frames
from sam2fast.datasets.layout import MASKLETS
from sam2fast.datasets.segmentations import area_of, read_coco, read_sa1b, require_pycocotools
from sam2fast.io.image_names import coco_name, distinct_stems
from sam2fast.io.images import SUFFIXES, is_video_file
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.raw_dataset import (
    FolderVideo,
    NamedVideoDataset,
    NameLists,
    PathLike,
    check_num_frames,
    image_as_video,
    raise_if_any,
    refuse_left_out,
    refuse_without_frames,
    require_files,
    require_folder,
    select_names,
)

SAV_FILES = "<video>.mp4 or <video>/<frame>.jpg"
SA1B_IMAGE, SA1B_MASKS = ".jpg", ".json"


class EncodedVideo(FolderVideo):
    """Video file with annotations. The video file is opened for each clip and closed afterwards."""

    def read_frames(self, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Decodes frames ``(H, W, 3)`` uint8 RGB."""
        return decode_video_frames(self.frames[0][1], [self.frame_indices[position] for position in positions])


class JSONRawDataset(NamedVideoDataset):
    """Data set of videos with masks in JSON files, ``gt_folder/<video>_manual.json``.

    Videos are files, ``img_folder/<video>.mp4``, or folders of frames, ``img_folder/<video>/<number>.jpg``. Videos may
    lie in subfolders, as in SA-V's archives, and then have names such as ``sav_000/sav_000001``. Follows the official
    ``training.dataset.vos_raw_dataset.JSONRawDataset``. The official class reads only folders of frames.

    Args:
        rm_unannotated: if True, uses only frames on which every object is annotated, as visible or as occluded.
        ann_every: number of video frames per annotated frame. SA-V has 4 video frames per annotated frame.
        frames_fps: frames per second of the videos, used if a JSON file states the rate of the annotations.
        annotator: type of mask files that are read, ``manual`` or ``auto``.

    Raises:
        ImportError: If ``img_folder`` has video files and PyAV is not installed.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: NameLists = None,
        sample_rate: int = 1,
        rm_unannotated: bool = True,
        ann_every: int = 1,
        frames_fps: int = 24,
        annotator: str = "manual",
    ) -> None:
        for argument, value in (("sample_rate", sample_rate), ("ann_every", ann_every), ("frames_fps", frames_fps)):
            if value < 1:
                raise ValueError(f"{argument} must be at least 1, got {value}")
        if annotator not in MASKLETS:
            raise ValueError(f"annotator must be one of {', '.join(MASKLETS)}, got {annotator!r}")
        self.masks_suffix = f"_{annotator}.json"
        self.img_folder = require_folder("img_folder", img_folder, SAV_FILES)
        self.gt_folder = require_folder("gt_folder", gt_folder, f"<video>{self.masks_suffix}")
        self.sample_rate, self.rm_unannotated = sample_rate, rm_unannotated
        self.ann_every, self.frames_fps = ann_every, frames_fps
        present, others = _find_videos(self.img_folder)
        if file_list_txt is None:
            refuse_left_out(others, "videos", self.img_folder, SAV_FILES)
        lists = file_list_txt, excluded_videos_list_txt
        self.video_names = names = select_names(present, self.img_folder, SAV_FILES, *lists, "videos")
        folders = [name for name in names if self._video_file(name) is None]
        empty = [name for name in folders if not has_files(self.img_folder / name, FRAME_SUFFIXES)]
        refuse_without_frames(empty, names, self.img_folder, SAV_FILES)
        self._masks = require_files(names, "gt_folder", self.gt_folder, self.masks_suffix, "videos")
        if len(folders) < len(names):
            from sam2fast.video_io.video_types import require_pyav

            require_pyav()

    def get_video(self, idx: int) -> FolderVideo:
        name = self.video_names[idx]
        masks = f"{name}{self.masks_suffix}"
        masks = self._masks.get(masks, masks)
        annotations = MaskletAnnotations(self.gt_folder / masks, self.ann_every, self.frames_fps)
        file = self._video_file(name)
        if file is not None:
            taken = self._taken(range(count_frames(file)), annotations)
            return EncodedVideo(name, tuple((number, file) for number in taken), tuple(taken), annotations)
        files = list_files(self.img_folder / name, FRAME_SUFFIXES)
        strange = [path for key, path in files.items() if not isinstance(key, int)]
        if strange:
            raise DatasetError(f"{strange[0]}: a frame must be named by its number in the video")
        numbers = self._taken([key for key in files if isinstance(key, int)], annotations)
        return FolderVideo(name, tuple((number, files[number]) for number in numbers), tuple(numbers), annotations)

    def _taken(self, numbers: Sequence[int], annotations: MaskletAnnotations) -> list[int]:
        """Returns the frame ``numbers`` that remain after ``sample_rate`` and ``rm_unannotated`` are applied."""
        sampled = numbers[:: self.sample_rate]
        return [n for n in sampled if annotations.is_annotated(n)] if self.rm_unannotated else list(sampled)

    def _video_file(self, name: str) -> Path | None:
        files = (self.img_folder / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)
        return next((file for file in files if file.is_file()), None)


def _find_videos(folder: Path) -> tuple[list[str], list[Path]]:
    """Returns the names of videos in a folder and its subfolders, and paths of video files in unsupported formats."""
    names, others = [], []
    for path in list_entries(folder):
        is_folder = path.is_dir()
        files = [f for f in (list_entries(path) if is_folder else [path]) if is_video_file(f.name)]
        read = [file for file in files if file.suffix in VIDEO_SUFFIXES and file.is_file()]
        others += [file for file in files if file.suffix not in VIDEO_SUFFIXES]
        names += [file.relative_to(folder).with_suffix("").as_posix() for file in read]
        if is_folder and not read:
            names.append(path.name)
    return names, others


class SA1BRawDataset(NamedVideoDataset):
    """Images ``img_folder/sa_<number>.jpg`` with masks ``gt_folder/sa_<number>.json``, as videos of identical frames.

    Follows the official ``training.dataset.vos_raw_dataset.SA1BRawDataset``, except that videos are sorted by name and
    have the names of their files. Object ids are the positions, from 0, among the annotations that are not excluded.
    Names in ``file_list_txt`` may include a folder, such as ``sa_000000/sa_1`` in SA-1B's archives.

    Args:
        mask_area_frac_thresh: fraction of the image's area from which masks are excluded; above 1, no mask is excluded.
        uncertain_iou: minimum of an annotation's entry ``uncertain_iou``; masks with smaller values are excluded.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: NameLists = None,
        num_frames: int = 1,
        mask_area_frac_thresh: float = 1.1,
        uncertain_iou: float = -1,
    ) -> None:
        self.img_folder = require_folder("img_folder", img_folder, f"<name>{SA1B_IMAGE}")
        self.gt_folder = require_folder("gt_folder", gt_folder, f"<name>{SA1B_MASKS}")
        self.num_frames = check_num_frames(num_frames)
        self.mask_area_frac_thresh, self.uncertain_iou = mask_area_frac_thresh, uncertain_iou

        present: list[str] = []
        if file_list_txt is None:
            images = [path for path in list_entries(self.img_folder) if path.suffix.lower() in SUFFIXES]
            others = [path for path in images if path.suffix != SA1B_IMAGE]
            refuse_left_out(others, "images", self.img_folder, f"<name>{SA1B_IMAGE}")
            present = [path.stem for path in images]
        expected = f"<name>{SA1B_IMAGE} in img_folder"
        lists = file_list_txt, excluded_videos_list_txt
        names = select_names(present, self.img_folder, expected, *lists, "images", must_exist=False)
        # The names of the files that are not named like the images.
        self._files = {
            **require_files(names, "img_folder", self.img_folder, SA1B_IMAGE, "images"),
            **require_files(names, "gt_folder", self.gt_folder, SA1B_MASKS, "images"),
        }
        self.video_names = names

    def get_video(self, idx: int) -> FolderVideo:
        name = self.video_names[idx]
        files = (self._files.get(file, file) for file in (f"{name}{SA1B_IMAGE}", f"{name}{SA1B_MASKS}"))
        image, masks = map(Path.joinpath, (self.img_folder, self.gt_folder), files)
        segments = dict(enumerate(self._segments(image, masks)))
        annotations = SegmentAnnotations(segments, f"{masks}, object", image)
        return image_as_video(name, image, annotations, self.num_frames)

    def _segments(self, image: Path, masks: Path) -> list[Any]:
        """Returns the RLE masks of an image's annotations that are not excluded."""
        by_share = self.mask_area_frac_thresh <= 1.0
        height, width = read_frame_size(image) if by_share else (1, 1)
        try:
            return [
                annotation["segmentation"]
                for annotation in read_sa1b(masks)
                if annotation["area"] > 0
                and not annotation.get("uncertain_iou", self.uncertain_iou) < self.uncertain_iou
                and not (by_share and annotation["area"] / (height * width) >= self.mask_area_frac_thresh)
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f'{masks}: an annotation must have "segmentation" and "area": {error!r}') from error


class CocoRawDataset(NamedVideoDataset):
    """Images with objects from a COCO instances file, as videos of identical frames.

    Images are rotated by their EXIF orientation. Masks that have the size of the unrotated image are rotated like the
    image.

    Objects have the ids of their annotations. Masks are polygons or RLE. Polygons need pycocotools. Crowds, annotations
    without a mask and images without objects are excluded.

    Args:
        img_folder: folder with the image files. Entries ``file_name`` of the JSON file are relative to ``img_folder``.
        annotation_file: JSON file such as ``annotations/instances_train2017.json``. The names of image files must be
            unique.
        categories: names or ids of the categories whose objects are used; None uses all categories.
        min_area: minimum ``area`` of an object in the JSON file, in pixels; smaller objects are excluded.
    """

    def __init__(
        self,
        img_folder: PathLike,
        annotation_file: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: NameLists = None,
        num_frames: int = 1,
        categories: Sequence[str | int] | None = None,
        min_area: float = 0,
    ) -> None:
        self.img_folder = require_folder("img_folder", img_folder, "the images that annotation_file names")
        if annotation_file is None:
            raise DataError("annotation_file is not set: it must be a JSON file of COCO's instances")
        self.annotation_file = Path(annotation_file)
        self.num_frames = check_num_frames(num_frames)
        try:
            content = read_coco(self.annotation_file)
            objects = _objects_by_image(content, _category_ids(content, categories), min_area)
            used = [i for i in content["images"] if i["id"] in objects]
            names = [coco_name(i) or str(i["file_name"]) for i in used]
            images = dict(zip(names, used, strict=True))
        except DatasetError as error:
            raise DataError(f"annotation_file: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.annotation_file} is not a valid COCO file: {error!r}") from error
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{self.annotation_file} has several images of one name, such as {repeated[0]}")
        by_name = dict(zip(distinct_stems([*images]), images, strict=True))
        lists = file_list_txt, excluded_videos_list_txt
        names = select_names(by_name, self.annotation_file, "images with objects", *lists, "images", False)
        raise_if_any(
            [name for name in names if name not in by_name],
            f"of the {len(names)} images listed in {file_list_txt} have no object in {self.annotation_file}",
            "Expected names of images in that file.",
        )
        self.video_names = names
        stated = [by_name[name] for name in names]
        problem = f"in {self.annotation_file} are not in img_folder {self.img_folder}"
        renamed = require_files(stated, "img_folder", self.img_folder, "", "images", problem)
        self.files = [renamed.get(file, file) for file in stated]
        ids = [images[file]["id"] for file in stated]
        require_pycocotools((segmentation for i in ids for _, segmentation in objects[i]), "train")
        self._objects = PackedRecords(objects[i] for i in ids)
        self._sizes = [(images[file].get("height"), images[file].get("width")) for file in stated]

    @property
    def name(self) -> str:
        return str(self.annotation_file)

    def get_video(self, idx: int) -> FolderVideo:
        """Returns image number ``idx`` as a video. Masks are decoded on access."""
        path = self.img_folder / self.files[idx]
        where = f"{self.annotation_file}, annotation"
        annotations = SegmentAnnotations(dict(self._objects[idx]), where, path, self._sizes[idx])
        return image_as_video(self.video_names[idx], path, annotations, self.num_frames)


class PackedRecords:
    """List of JSON values in one byte array. Forked workers share an array's memory, but would copy Python objects."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._bytes = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        return json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def _category_ids(content: Mapping[str, Any], wanted: Sequence[str | int] | None) -> set[int] | None:
    """Returns the ids of the ``wanted`` categories, or None for all categories."""
    if wanted is None:
        return None
    known: dict[str | int, set[int]] = defaultdict(set)  # category ids by id and by name; categories may share a name
    for category in content.get("categories", []):
        known[category["id"]].add(category["id"])
        known[category["name"]].add(category["id"])
    strange = sorted(str(category) for category in wanted if category not in known)
    if strange:
        names = sorted({str(category["name"]) for category in content.get("categories", [])})
        raise DataError(f"unknown categories {', '.join(strange)}; there are {', '.join(names)}")
    return set().union(*(known[category] for category in wanted))


def _objects_by_image(
    content: Mapping[str, Any], categories: set[int] | None, min_area: float
) -> dict[Any, list[tuple[int, Any]]]:
    """Returns a mapping from image ids to the ids and segmentations of the selected objects."""
    objects: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        area = annotation.get("area")
        is_wanted = categories is None or annotation["category_id"] in categories
        is_large = area is None or area >= min_area
        has_mask = annotation.get("segmentation") and not annotation.get("iscrowd")
        if is_wanted and is_large and has_mask and (area != 0 or _has_pixels(annotation["segmentation"])):
            objects[annotation["image_id"]].append((annotation.get("id"), annotation["segmentation"]))
    for image, segments in objects.items():  # replaces object ids that are not unique integers by numbers from 1
        if len({i for i, _ in segments}) < len(segments) or any(type(i) is not int for i, _ in segments):
            objects[image] = [(number, segmentation) for number, (_, segmentation) in enumerate(segments, 1)]
    return objects


def _has_pixels(segmentation: Any) -> bool:
    """Returns True if a mask has pixels although its stated area is 0, as in some custom files."""
    if isinstance(segmentation, Mapping):
        return area_of(segmentation) > 0
    corners = [np.reshape(polygon, (-1, 2)).T for polygon in segmentation]
    return sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in corners) >= 1
