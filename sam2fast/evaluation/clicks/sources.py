"""Which pictures and masks of a data set belong together: SA-1B, COCO, folders of PNGs."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.segmentations import read_coco, require_pycocotools
from sam2fast.evaluation.clicks.job import ImageJob
from sam2fast.evaluation.clicks.mask_files import CocoMasks, LabelPicture, MaskSource, ObjectPictures, Sa1bMasks
from sam2fast.io.images import SUFFIXES

FORMATS = ("sa1b", "coco", "png")


class DataSet(NamedTuple):
    """Pictures with masks."""

    format: str
    jobs: list[ImageJob]  # by name
    problems: list[tuple[str, str]]  # of each file that has no counterpart, or is unclear: which, and why


def open_data_set(
    images: Path,
    masks: Path,
    format: str = "auto",
    *,
    skip_unmasked: bool = False,
    with_crowds: bool = False,
    ignored_labels: Sequence[int] = (),
) -> DataSet:
    """Pairs pictures with their masks; nothing but a file of COCO's is read.

    Args:
        images: the folder of the pictures, with its subfolders.
        masks: the file of a COCO data set, else a folder, which may be the same.
        format: ``sa1b``, ``coco`` or ``png``; ``auto``: ``coco`` for a file, ``sa1b`` if a picture has a JSON file of
            its name, else ``png``.
        skip_unmasked: a picture without masks is no problem.
        with_crowds: takes COCO's annotations of crowds for objects as well.
        ignored_labels: values of pictures of labels that are no objects.

    Raises:
        DatasetError: there is no picture with masks, or the file is not COCO's.
        ImportError: COCO's polygons without pycocotools.
    """
    if not images.is_dir():
        raise DatasetError(f"no folder {str(images)!r}")
    if not masks.exists():
        raise DatasetError(f"no file or folder {str(masks)!r}")
    if format == "auto":
        format = _guess(images, masks)
    if (format == "coco") != masks.is_file():
        wanted = "the JSON file" if format == "coco" else "a folder"
        raise DatasetError(f"the masks of a data set of the format {format} are {wanted}, which {masks} is not")
    if format == "coco":
        found = _coco(images, masks, with_crowds)
    elif format == "sa1b":
        found = _sa1b(images, masks)
    else:
        found = _png(images, masks, tuple(ignored_labels))
    if not found.jobs:
        raise DatasetError(f"no picture in {images} has masks of the format {format} in {masks}")
    if skip_unmasked:
        found = found._replace(problems=[(name, why) for name, why in found.problems if why != _UNMASKED])
    return found


def draw(jobs: Sequence[ImageJob], count: int, seed: int) -> list[ImageJob]:
    """So many of the pictures, in their order; all, if there are no more."""
    if count >= len(jobs):
        return list(jobs)
    chosen = np.random.default_rng(seed).choice(len(jobs), count, replace=False)
    return [jobs[i] for i in sorted(chosen)]


_UNMASKED = "there are no masks for this picture"
_UNPICTURED = "there is no picture for these masks"
_UNCLEAR = "there are several kinds of masks for this picture, of NAME.png, NAME_*.png and NAME/*.png; leave one"


def _guess(images: Path, masks: Path) -> str:
    if masks.is_file():
        return "coco"
    if any((masks / f"{name}.json").is_file() for name in _pictures(images, masks).files):
        return "sa1b"
    if any(_files(masks, (".png",), other_than=images)):
        return "png"
    raise DatasetError(
        f"{masks} has neither a JSON file for a picture nor PNGs; of COCO's data sets give the JSON file itself"
    )


class _Pictures(NamedTuple):
    folder: Path
    files: dict[str, Path]  # by name in the folder, without suffix
    problems: list[tuple[str, str]]


def _pictures(images: Path, masks: Path, masks_are_png: bool = False) -> _Pictures:
    found = _Pictures(images, {}, [])
    suffixes = tuple(s for s in SUFFIXES if s != ".png" or not (masks_are_png and _same(images, masks)))
    for path in _files(images, suffixes, other_than=masks):
        name = _name(path, images)
        if name in found.files:
            found.problems.append((str(path), f"{found.files[name]} has the same name"))
        else:
            found.files[name] = path
    return found


def _files(folder: Path, suffixes: Sequence[str], other_than: Path) -> Iterator[Path]:
    """Files in a folder and its subfolders, sorted; neither hidden nor in the other folder, if that lies in this."""
    root, other = Path(os.path.realpath(folder)), Path(os.path.realpath(other_than))
    left_out = other.relative_to(root).parts if root in other.parents else None
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in suffixes or any(part.startswith(".") for part in parts):
            continue
        if parts[: len(left_out or ())] != left_out and path.is_file():
            yield path


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _paired(format: str, pictures: _Pictures, source_of: Callable[[str], MaskSource | str]) -> DataSet:
    """The pictures with the masks that ``source_of`` knows by their names, or with why there are none."""
    found = DataSet(format, [], list(pictures.problems))
    for name, path in pictures.files.items():
        source = source_of(name)
        if isinstance(source, str):
            found.problems.append((str(path), source))
        else:
            found.jobs.append(ImageJob(path.relative_to(pictures.folder).as_posix(), path, source))
    return found


def _sa1b(images: Path, masks: Path) -> DataSet:
    pictures = _pictures(images, masks)
    files = {_name(path, masks): path for path in _files(masks, (".json",), other_than=images)}
    found = _paired("sa1b", pictures, lambda name: Sa1bMasks(files[name]) if name in files else _UNMASKED)
    found.problems.extend((str(path), _UNPICTURED) for name, path in files.items() if name not in pictures.files)
    return found


def _png(images: Path, masks: Path, ignored: tuple[int, ...]) -> DataSet:
    pictures = _pictures(images, masks, masks_are_png=True)
    labels: dict[str, Path] = {}
    # Of each picture, by where they lie: in a folder of its name, or beside it with longer names.
    objects: dict[str, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
    unpictured = []
    for path in _files(masks, (".png",), other_than=images):
        name = _name(path, masks)
        owner = _owner(name, pictures.files)
        if owner is None:
            unpictured.append((str(path), _UNPICTURED))
        elif owner == name:
            labels[name] = path
        else:
            objects[owner][path.parent].append(path)

    def source_of(name: str) -> MaskSource | str:
        folders = list(objects[name].values())
        if len(folders) + (name in labels) > 1:
            return _UNCLEAR
        if name in labels:
            return LabelPicture(labels[name], ignored)
        return ObjectPictures(tuple(folders[0])) if folders else _UNMASKED

    found = _paired("png", pictures, source_of)
    found.problems.extend(unpictured)
    return found


def _owner(name: str, pictures: dict[str, Path]) -> str | None:
    """The picture that a mask belongs to: of the same name, of its folder's, or of the longest beginning before a _."""
    if name in pictures:
        return name
    folder, _, own = name.rpartition("/")
    if folder in pictures:
        return folder
    while "_" in own:
        own = own.rpartition("_")[0]
        beginning = f"{folder}/{own}" if folder else own
        if beginning in pictures:
            return beginning
    return None


def _coco(images: Path, file: Path, with_crowds: bool) -> DataSet:
    content = read_coco(file)
    entries, annotations = content["images"], content["annotations"]
    found = DataSet("coco", [], [])
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        if not isinstance(fields.get("id"), int | str) or not isinstance(fields.get("file_name"), str):
            raise DatasetError(f"{file} is not COCO's: an image has no id and file_name")
    by_image: dict[Any, list[Any]] = {entry["id"]: [] for entry in entries}
    for position, annotation in enumerate(annotations):
        try:
            objects = by_image[annotation["image_id"]]
        except (KeyError, TypeError):
            found.problems.append((f"{file}: annotation {position}", "it is of no image in the file"))
            continue
        if with_crowds or not annotation.get("iscrowd"):
            objects.append(annotation)
    require_pycocotools((each.get("segmentation") for objects in by_image.values() for each in objects), "eval")
    for entry in sorted(entries, key=lambda entry: entry["file_name"]):
        if by_image[entry["id"]]:
            source = CocoMasks(file, tuple(by_image[entry["id"]]), (entry.get("height"), entry.get("width")))
            found.jobs.append(ImageJob(Path(entry["file_name"]).as_posix(), images / entry["file_name"], source))
    return found
