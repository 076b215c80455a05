"""Pairs images with their true masks in the layouts of SA-1B, COCO and folders of PNGs, and reads the masks."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from sam2fast.datasets.dataset_files import DatasetError, read_labels, read_object_ids
from sam2fast.datasets.displayed import displayed_segmentation, turn_for_display
from sam2fast.datasets.segmentations import area_of, read_coco, read_sa1b, require_pycocotools
from sam2fast.io.images import SUFFIXES
from sam2fast.io.rle import encode_rle, rasterise_polygons

Item = TypeVar("Item")
IMAGE = "its image"  # for messages
# No data set has a label image with more values: it is a photograph or a depth map.
MOST_LABELS = 10_000
FORMATS = ("sa1b", "coco", "png")
_UNMASKED = "there are no masks for this image"
_UNPAIRED = "there is no image for these masks"
_UNCLEAR = "there are several kinds of masks for this image, of NAME.png, NAME_*.png and NAME/*.png; leave one"


class TrueMask(NamedTuple):
    """One object."""

    id: str  # in the data set
    rle: Mapping[str, Any]  # COCO run lengths, compressed or not, of the image's size
    area: int  # in pixels


class ImageMasks(NamedTuple):
    """The masks of an image, and a line on each that cannot be read."""

    masks: list[TrueMask]
    problems: list[str]


class MaskSource(Protocol):
    """Reads the true masks of one image; can be pickled."""

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """The masks of an image of ``size`` (H, W); some may be empty.

        Raises:
            DatasetError: If the file cannot be read. Single masks that cannot are in ``problems``.
        """

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""


@dataclass(frozen=True)
class _OneFile:
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)


@dataclass(frozen=True)
class Sa1bMasks(_OneFile):
    """The JSON file of an image in SA-1B."""

    image: Path

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """See :class:`MaskSource`."""
        return _read_annotations(self.file, read_sa1b(self.file), size, self.image)


@dataclass(frozen=True)
class CocoMasks(_OneFile):
    """One image's annotations in a COCO file."""

    image: Path
    annotations: tuple[Any, ...]
    declared: tuple[Any, Any]  # the image's (height, width) in the file

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """See :class:`MaskSource`."""
        turn_for_display(self.declared, size, self.image)  # one error, not one for each annotation
        return _read_annotations(self.file, self.annotations, size, self.image, self.declared)


@dataclass(frozen=True)
class LabelImage(_OneFile):
    """A palette or grey PNG whose nonzero values, except ``ignored`` ones, are object ids."""

    ignored: tuple[int, ...] = ()

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """See :class:`MaskSource`."""
        labels = read_object_ids(self.file, size, IMAGE, self.ignored)
        values, areas = np.unique(labels, return_counts=True)
        if len(values) > MOST_LABELS:
            raise DatasetError(f"{self.file} has {len(values)} different values; a label image has one per object")
        objects = [
            TrueMask(str(value), encode_rle(labels == value), int(area))
            for value, area in zip(values.tolist(), areas, strict=True)
            if value != 0 and value not in self.ignored
        ]
        return ImageMasks(objects, [])


@dataclass(frozen=True)
class ObjectImages:
    """A PNG for each object, whose nonzero pixels are the object."""

    files: tuple[Path, ...]

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """See :class:`MaskSource`."""
        found = ImageMasks([], [])
        for file in self.files:
            try:
                mask = read_labels(file, size, IMAGE) != 0
            except DatasetError as error:
                found.problems.append(str(error))
            else:
                found.masks.append(TrueMask(file.stem, encode_rle(mask), int(mask.sum())))
        return found


def _read_annotations(
    file: Path, annotations: Iterable[Any], size: tuple[int, int], image: Path, declared: Any = (None, None)
) -> ImageMasks:
    found = ImageMasks([], [])
    for position, annotation in enumerate(annotations):
        name = str(position)  # until its id is read
        try:
            name = str(annotation.get("id", position))
            rle = displayed_segmentation(annotation["segmentation"], declared, size, image)
            if isinstance(rle, list):
                rle = rasterise_polygons(rle, size)
            area = area_of(rle, size)
        except KeyError as error:
            found.problems.append(f"{file}: annotation {name} has no {error}")
        except (AttributeError, TypeError, ValueError) as error:
            found.problems.append(f"{file}: annotation {name}: {error}")
        else:
            found.masks.append(TrueMask(name, {"size": list(size), "counts": rle["counts"]}, area))
    return found


@dataclass(frozen=True)
class ClickJob:
    """An image and its true masks."""

    name: str
    image: Path
    masks: MaskSource


class ClickDataset(NamedTuple):
    """Images with masks."""

    format: str
    jobs: list[ClickJob]  # by name
    problems: list[tuple[str, str]]  # files without a counterpart, or with several, and the reason
    left_out: list[tuple[str, str, str]]  # kind, reason and name of each item that is not evaluated


def open_data_set(
    images: Path,
    masks: Path,
    format: str = "auto",
    *,
    skip_unmasked: bool = False,
    with_crowds: bool = False,
    ignored_labels: Sequence[int] = (),
) -> ClickDataset:
    """Pairs images with their masks. Only a COCO file is read; other files are listed.

    Args:
        images: The folder of the images, with its subfolders.
        masks: COCO's JSON file, or a folder, possibly the same one.
        format: ``sa1b``, ``coco`` or ``png``. ``auto`` is ``coco`` for a file, ``sa1b`` if an image has a JSON file of
            its name, otherwise ``png``.
        skip_unmasked: True if an image without masks is no problem.
        with_crowds: True to include COCO's crowd annotations.
        ignored_labels: Values of label images that are no objects.

    Raises:
        DatasetError: If no image has masks, or the file is not COCO's.
        ImportError: If COCO has polygons, and pycocotools is not installed.
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
        raise DatasetError(f"no image in {images} has masks of the format {format} in {masks}")
    hidden = sorted(path for path in images.rglob(".*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found.left_out.extend(("file", "it is hidden", str(path)) for path in hidden)
    if skip_unmasked:
        found.left_out.extend(("image", "it has no masks", name) for name, why in found.problems if why == _UNMASKED)
        found = found._replace(problems=[(name, why) for name, why in found.problems if why != _UNMASKED])
    return found


def sample(items: Sequence[Item], most: int | None, seed: int | np.random.Generator) -> list[Item]:
    """Returns a random sample of at most ``most`` items, in their order; all of them if it is None."""
    if most is None or most >= len(items):
        return list(items)
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), most, replace=False))]


def _guess(images: Path, masks: Path) -> str:
    if masks.is_file():
        return "coco"
    if any((masks / f"{name}.json").is_file() for name in _list_images(images, masks).files):
        return "sa1b"
    if any(_files(masks, (".png",), other_than=images)):
        return "png"
    raise DatasetError(f"{masks} has neither a JSON file for an image nor PNGs; for COCO give the JSON file itself")


class _ImageFiles(NamedTuple):
    folder: Path
    files: dict[str, Path]  # by name in the folder, without suffix
    problems: list[tuple[str, str]]


def _list_images(images: Path, masks: Path, masks_are_png: bool = False) -> _ImageFiles:
    found = _ImageFiles(images, {}, [])
    are_together = os.path.realpath(images) == os.path.realpath(masks)
    suffixes = tuple(s for s in SUFFIXES if s != ".png" or not (masks_are_png and are_together))
    for path in _files(images, suffixes, other_than=masks):
        name = _name(path, images)
        if name in found.files:
            found.problems.append((str(path), f"{found.files[name]} has the same name"))
        else:
            found.files[name] = path
    return found


def _files(folder: Path, suffixes: Sequence[str], other_than: Path) -> Iterator[Path]:
    """Files in a folder and its subfolders, sorted, without hidden ones and those in the folder ``other_than``."""
    root, other = Path(os.path.realpath(folder)), Path(os.path.realpath(other_than))
    left_out = other.relative_to(root).parts if root in other.parents else None
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in suffixes or any(part.startswith(".") for part in parts):
            continue
        is_broken = path.is_symlink() and not path.exists()  # an error when it is read
        if parts[: len(left_out or ())] != left_out and (path.is_file() or is_broken):
            yield path


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _paired(format: str, images: _ImageFiles, source_of: Callable[[str], MaskSource | str]) -> ClickDataset:
    """Pairs images with the masks that ``source_of`` returns for their names, or reports the reason that it returns."""
    found = ClickDataset(format, [], list(images.problems), [])
    for name, path in images.files.items():
        source = source_of(name)
        if isinstance(source, str):
            found.problems.append((str(path), source))
        else:
            found.jobs.append(ClickJob(path.relative_to(images.folder).as_posix(), path, source))
    return found


def _sa1b(images: Path, masks: Path) -> ClickDataset:
    found_images = _list_images(images, masks)
    files = {_name(path, masks): path for path in _files(masks, (".json",), other_than=images)}

    def source_of(name: str) -> MaskSource | str:
        return Sa1bMasks(files[name], found_images.files[name]) if name in files else _UNMASKED

    found = _paired("sa1b", found_images, source_of)
    found.problems.extend((str(path), _UNPAIRED) for name, path in files.items() if name not in found_images.files)
    return found


def _png(images: Path, masks: Path, ignored: tuple[int, ...]) -> ClickDataset:
    found_images = _list_images(images, masks, masks_are_png=True)
    labels: dict[str, Path] = {}
    # The object masks of each image by folder: a folder of its name, or the image's own folder with longer names.
    objects: dict[str, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
    unpaired = []
    for path in _files(masks, (".png",), other_than=images):
        name = _name(path, masks)
        owner = _owner(name, found_images.files)
        if owner is None:
            unpaired.append((str(path), _UNPAIRED))
        elif owner == name:
            labels[name] = path
        else:
            objects[owner][path.parent].append(path)

    def source_of(name: str) -> MaskSource | str:
        folders = list(objects[name].values())
        if len(folders) + (name in labels) > 1:
            return _UNCLEAR
        if name in labels:
            return LabelImage(labels[name], ignored)
        return ObjectImages(tuple(folders[0])) if folders else _UNMASKED

    found = _paired("png", found_images, source_of)
    found.problems.extend(unpaired)
    return found


def _owner(name: str, images: dict[str, Path]) -> str | None:
    """The image of a mask: with the same name, with its folder's name, or with the longest prefix before a ``_``."""
    if name in images:
        return name
    folder, _, own = name.rpartition("/")
    if folder in images:
        return folder
    while "_" in own:
        own = own.rpartition("_")[0]
        beginning = f"{folder}/{own}" if folder else own
        if beginning in images:
            return beginning
    return None


def _coco(images: Path, file: Path, with_crowds: bool) -> ClickDataset:
    content = read_coco(file)
    entries, annotations = list[Any](), content["annotations"]
    found = ClickDataset("coco", [], [], [])
    by_image: dict[Any, list[Any]] = {}
    for position, entry in enumerate(content["images"]):
        fields = entry if isinstance(entry, dict) else {}
        if isinstance(fields.get("id"), int | str) and isinstance(fields.get("file_name"), str):
            entries.append(entry)
            by_image[entry["id"]] = []
        else:
            found.problems.append((f"{file}: image {position}", "it has no id and file_name"))
    for position, annotation in enumerate(annotations):
        try:
            objects = by_image[annotation["image_id"]]
        except (KeyError, TypeError):
            found.problems.append((f"{file}: annotation {position}", "it is of no image in the file"))
            continue
        if with_crowds or not annotation.get("iscrowd"):
            objects.append(annotation)
        else:
            found.left_out.append(("object", "it is a crowd", f"annotation {annotation.get('id', position)}"))
    require_pycocotools((each.get("segmentation") for objects in by_image.values() for each in objects), "eval")
    for entry in sorted(entries, key=lambda entry: entry["file_name"]):
        if by_image[entry["id"]]:
            image, declared = images / entry["file_name"], (entry.get("height"), entry.get("width"))
            source = CocoMasks(file, image, tuple(by_image[entry["id"]]), declared)
            found.jobs.append(ClickJob(Path(entry["file_name"]).as_posix(), image, source))
        else:
            found.left_out.append(("image", "it has no objects", entry["file_name"]))
    return found
