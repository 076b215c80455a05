"""Pictures with the objects of a COCO file."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import read_frame_size
from sam2fast.datasets.segmentations import SegmentAnnotations, read_coco, require_pycocotools
from sam2fast.training.data.errors import DataError
from sam2fast.training.data.folders import FolderVideo, check_num_frames, still_video
from sam2fast.training.data.lists import (
    Lists,
    NamedVideos,
    PathLike,
    choose_names,
    existing_folder,
    refuse,
    without_file,
)


class CocoRawDataset(NamedVideos):
    """The pictures that a file of COCO's instances has objects for, as videos of equal frames.

    Objects have their annotations' ids. Masks may be polygons, which need pycocotools, or run lengths. Crowds are left
    out, as are annotations without a mask, and pictures without any object.

    Args:
        img_folder: of the pictures, under the ``file_name`` that the file has.
        annotation_file: such as ``annotations/instances_train2017.json``.
        file_list_txt: takes only the pictures named in it, one a line, by file name; file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        num_frames: of each video.
        categories: takes only objects of these, by name or id.
        min_area: leaves out objects of fewer pixels, by the file's ``area``.

    Raises:
        DataError: no such folder, file or list, a file that is not COCO's, no pictures, or pictures that are missing or
            whose names differ by their extension alone.
        ImportError: polygons, and pycocotools is not installed.
    """

    def __init__(
        self,
        img_folder: PathLike,
        annotation_file: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: Lists = None,
        num_frames: int = 1,
        categories: Sequence[str | int] | None = None,
        min_area: float = 0,
    ) -> None:
        self.img_folder = existing_folder("img_folder", img_folder, "the pictures that annotation_file names")
        if annotation_file is None:
            raise DataError("annotation_file is not set: it must be a JSON file of COCO's instances")
        self.annotation_file = Path(annotation_file)
        self.num_frames = check_num_frames(num_frames)
        try:
            content = read_coco(self.annotation_file)
            objects = _objects_by_image(content, _category_ids(content, categories), min_area)
            used = [i for i in content["images"] if i["id"] in objects]
            images = {str(i["file_name"]): i for i in used}
            names_used = Counter(_without_suffix(str(i["file_name"])) for i in used)
        except DatasetError as error:
            raise DataError(f"annotation_file: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.annotation_file} is not as COCO's files are: {error!r}") from error
        refuse(
            sorted(name for name, count in names_used.items() if count > 1),
            f"names are those of several pictures in {self.annotation_file}",
            "Expected file names that differ by more than their extension.",
        )
        by_name = {_without_suffix(file): file for file in images}
        lists = file_list_txt, excluded_videos_list_txt
        names = choose_names(by_name, self.annotation_file, "pictures with objects", *lists, "pictures")
        refuse(
            [name for name in names if name not in by_name],
            f"of the {len(names)} pictures listed in {file_list_txt} have no object in {self.annotation_file}",
            "Expected names of pictures as the file has them.",
        )
        self.video_names = names
        self.files = [by_name[name] for name in names]
        refuse(
            without_file(self.files, self.img_folder, ""),
            f"of {len(names)} pictures are not in img_folder {self.img_folder}",
            f"Expected the file names of {self.annotation_file} there.",
        )
        ids = [images[file]["id"] for file in self.files]
        require_pycocotools((segmentation for i in ids for _, segmentation in objects[i]), "train")
        self._objects = PackedRecords(objects[i] for i in ids)
        self._sizes = [(images[file].get("height"), images[file].get("width")) for file in self.files]

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.annotation_file)

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th picture; its masks are decoded when they are asked for.

        Raises:
            DatasetError: the picture cannot be read, or has another size than the file says.
        """
        path = self.img_folder / self.files[idx]
        declared, size = self._sizes[idx], read_frame_size(path)
        if declared not in (size, (None, None)):
            raise DatasetError(
                f"{path} has {size[1]}x{size[0]} pixels, {self.annotation_file} says {declared[1]}x{declared[0]}"
            )
        segments = dict(self._objects[idx])
        where = f"{self.annotation_file}, annotation"
        return still_video(self.video_names[idx], path, SegmentAnnotations(segments, where), self.num_frames)


class PackedRecords:
    """JSON values in one array of bytes: millions of objects would be copied, page by page, into every worker."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._bytes = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        return json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def _without_suffix(file: str) -> str:
    return str(PurePath(file).with_suffix(""))


def _category_ids(content: Mapping[str, Any], wanted: Sequence[str | int] | None) -> set[int] | None:
    """Ids of the categories, or None for all of them."""
    if wanted is None:
        return None
    known = {category["name"]: category["id"] for category in content.get("categories", [])}
    ids = {known.get(category, category) for category in wanted}
    strange = sorted(str(i) for i in ids if i not in known.values())
    if strange:
        raise DataError(f"there are no categories {', '.join(strange)}; there are {', '.join(sorted(known))}")
    return ids


def _objects_by_image(
    content: Mapping[str, Any], categories: set[int] | None, min_area: float
) -> dict[Any, list[tuple[int, Any]]]:
    """Ids and segmentations of the objects that are used, by the id of their picture."""
    objects: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        area = annotation.get("area")
        is_wanted = categories is None or annotation["category_id"] in categories
        is_large = area is None or (area > 0 and area >= min_area)
        if is_wanted and is_large and annotation.get("segmentation") and not annotation.get("iscrowd"):
            objects[annotation["image_id"]].append((int(annotation["id"]), annotation["segmentation"]))
    return objects
