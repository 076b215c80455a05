"""Pairs images with true masks in the layouts of SA-1B, COCO and PNG folders, and reads the masks."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from sam2fast.datasets.dataset_files import DatasetError, read_labels, read_object_ids
from sam2fast.datasets.displayed import displayed_segmentation, turn_for_display
from sam2fast.datasets.segmentations import area_of, read_coco, read_sa1b, require_pycocotools
from sam2fast.io.image_names import MaskOwners, coco_name, find_files, pair_masks, utf8_text, visible_files
from sam2fast.io.images import SUFFIXES
from sam2fast.io.rle import encode_rle, rasterise_polygons

Item = TypeVar("Item")
IMAGE = "its image"  # for messages
# Maximum number of values in a label image. An image with more values is a photograph or a depth map.
MOST_LABELS = 10_000
FORMATS = ("sa1b", "coco", "png")
_UNMASKED = "there are no masks for this image"
_UNPAIRED = "there is no image for these masks"
_UNCLEAR = "there are several types of masks for this image, of NAME.png, NAME_*.png and NAME/*.png; leave one"


class TrueMask(NamedTuple):
    """True mask of one object."""

    id: str  # id in the data set
    rle: Mapping[str, Any]  # COCO run lengths, compressed or not, of the image's size
    area: int  # area in pixels


class ImageMasks(NamedTuple):
    """Masks of an image, and a message about each mask that cannot be read."""

    masks: list[TrueMask]
    problems: list[str]


class MaskSource(Protocol):
    """Reads the true masks of one image. Can be pickled."""

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """Reads the masks of an image of ``size`` (H, W). Some masks may be empty.

        Raises:
            DatasetError: If the file cannot be read. Messages about single unreadable masks are in ``problems``.
        """

    @property
    def files(self) -> tuple[Path, ...]:
        """Returns the paths of the mask files."""


@dataclass(frozen=True)
class _OneFile:
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)


@dataclass(frozen=True)
class Sa1bMasks(_OneFile):
    """Masks in the JSON file of an image in SA-1B."""

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
        turn_for_display(self.declared, size, self.image)  # checks the size once instead of once per annotation
        return _read_annotations(self.file, self.annotations, size, self.image, self.declared)


@dataclass(frozen=True)
class LabelImage(_OneFile):
    """Palette or grey PNG whose nonzero values, except ``ignored`` values, are object ids."""

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
    """PNGs of objects. The nonzero pixels of each PNG are the object."""

    files: tuple[Path, ...]

    def read(self, size: tuple[int, int]) -> ImageMasks:
        """See :class:`MaskSource`."""
        result = ImageMasks([], [])
        for file in self.files:
            try:
                mask = read_labels(file, size, IMAGE) != 0
            except DatasetError as error:
                result.problems.append(str(error))
            else:
                result.masks.append(TrueMask(file.stem, encode_rle(mask), int(mask.sum())))
        return result


def _read_annotations(
    file: Path, annotations: Iterable[Any], size: tuple[int, int], image: Path, declared: Any = (None, None)
) -> ImageMasks:
    result = ImageMasks([], [])
    for position, annotation in enumerate(annotations):
        name = str(position)  # name of the mask in messages until the id is read
        try:
            name = str(annotation.get("id", position))
            rle = displayed_segmentation(annotation["segmentation"], declared, size, image)
            if isinstance(rle, list):
                rle = rasterise_polygons(rle, size)
            area = area_of(rle, size)
        except KeyError as error:
            result.problems.append(f"{file}: annotation {name} has no {error}")
        except (AttributeError, TypeError, ValueError) as error:
            result.problems.append(f"{file}: annotation {name}: {error}")
        else:
            result.masks.append(TrueMask(name, {"size": list(size), "counts": rle["counts"]}, area))
    return result


@dataclass(frozen=True)
class ClickJob:
    """An image with its true masks."""

    name: str
    image: Path
    masks: MaskSource


class ClickDataset(NamedTuple):
    """Images with masks."""

    format: str
    jobs: list[ClickJob]  # sorted by name
    problems: list[tuple[str, str]]  # files that cannot be paired with one counterpart, and the reasons
    left_out: list[tuple[str, str, str]]  # type, reason and name of each item that is not evaluated


def open_data_set(
    images: Path,
    masks: Path,
    format: str = "auto",
    *,
    skip_unmasked: bool = False,
    with_crowds: bool = False,
    ignored_labels: Sequence[int] = (),
) -> ClickDataset:
    """Pairs images with their masks. Reads only a COCO file; lists other files.

    Args:
        images: Folder of the images, including its subfolders.
        masks: COCO's JSON file, or a folder, which may be the folder of the images.
        format: ``sa1b``, ``coco`` or ``png``. ``auto`` means ``coco`` for a file, ``sa1b`` if an image has a JSON file
            with its name, and otherwise ``png``.
        skip_unmasked: If True, images without masks are no problem.
        with_crowds: If True, includes COCO's crowd annotations.
        ignored_labels: Values of label images that are not objects.

    Raises:
        DatasetError: If no image has masks, or the file is not COCO's.
        ImportError: If COCO has polygons and pycocotools is not installed.
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
        dataset = _coco(images, masks, with_crowds)
    elif format == "sa1b":
        dataset = _sa1b(images, masks)
    else:
        dataset = _png(images, masks, tuple(ignored_labels))
    if not dataset.jobs:
        first = "".join(f"; {name}: {why}" for name, why in dataset.problems[:1])
        raise DatasetError(f"no image in {images} has masks of the format {format} in {masks}{first}")
    hidden = sorted(path for path in images.rglob(".*") if path.suffix.lower() in SUFFIXES and path.is_file())
    dataset.left_out.extend(("file", "it is hidden", str(path)) for path in hidden)
    if skip_unmasked:
        dataset.left_out.extend(("image", "it has no masks", n) for n, why in dataset.problems if why == _UNMASKED)
        dataset = dataset._replace(problems=[(name, why) for name, why in dataset.problems if why != _UNMASKED])
    return dataset


def sample(items: Sequence[Item], most: int | None, seed: int | np.random.Generator) -> list[Item]:
    """Returns a random sample of at most ``most`` items, in their order; all items if it is None."""
    if most is None or most >= len(items):
        return list(items)
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), most, replace=False))]


def _guess(images: Path, masks: Path) -> str:
    if masks.is_file():
        return "coco"
    if pair_masks(_mask_files(masks, ".json", images), _list_images(images, masks), images).owned:
        return "sa1b"
    if _mask_files(masks, ".png", images):
        return "png"
    raise DatasetError(f"{masks} has neither a JSON file for an image nor PNGs; for COCO give the JSON file itself")


def _list_images(folder: Path, masks: Path, masks_are_png: bool = False) -> dict[str, Path]:
    """Returns the images of a folder by path in the folder."""
    are_together = os.path.realpath(folder) == os.path.realpath(masks)
    suffixes = tuple(s for s in SUFFIXES if s != ".png" or not (masks_are_png and are_together))
    return {path.relative_to(folder).as_posix(): path for path in _files(folder, suffixes, other_than=masks)}


def _mask_files(folder: Path, suffix: str, images: Path) -> dict[str, Path]:
    """Returns the mask files of a folder by path in the folder without suffix."""
    files = _files(folder, (suffix,), other_than=images)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _files(folder: Path, suffixes: tuple[str, ...], other_than: Path) -> list[Path]:
    """Returns files of a folder and its subfolders, sorted, except hidden files and files in ``other_than``."""
    root, other = Path(os.path.realpath(folder)), Path(os.path.realpath(other_than))
    left_out = other.relative_to(root).parts if root in other.parents else None
    files = visible_files(folder, suffixes)
    return [path for path in files if path.relative_to(folder).parts[: len(left_out or ())] != left_out]


def _paired(
    format: str,
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    owners: MaskOwners,
    source_of: Callable[[Path, list[Path], list[Path]], MaskSource | None],
) -> ClickDataset:
    """Pairs images with their masks.

    Args:
        source_of: Function of an image, its files with the image's name, and its files with longer names. Returns None
            if the files are of several types.
    """
    dataset = ClickDataset(format, [], [], [])
    for name, path in images.items():
        of_image = owners.owned.get(name, [])
        files = ([masks[mask] for mask, is_longer in of_image if is_longer == longer] for longer in (False, True))
        source = source_of(path, *files) if of_image else None
        if source is None:
            dataset.problems.append((str(path), _UNCLEAR if of_image else owners.unclear.get(name, _UNMASKED)))
        else:
            dataset.jobs.append(ClickJob(utf8_text(name), path, source))
    dataset.problems.extend((str(masks[name]), _UNPAIRED) for name in owners.unpaired)
    return dataset


def _sa1b(images: Path, masks: Path) -> ClickDataset:
    listed, files = _list_images(images, masks), _mask_files(masks, ".json", images)

    def source_of(image: Path, whole: list[Path], longer: list[Path]) -> MaskSource | None:
        return Sa1bMasks(whole[0], image) if len(whole) == 1 else None

    return _paired("sa1b", listed, files, pair_masks(files, listed, images), source_of)


def _png(images: Path, masks: Path, ignored: tuple[int, ...]) -> ClickDataset:
    listed, files = _list_images(images, masks, masks_are_png=True), _mask_files(masks, ".png", images)

    def source_of(image: Path, whole: list[Path], longer: list[Path]) -> MaskSource | None:
        if len({path.parent for path in longer}) + len(whole) > 1:
            return None
        return LabelImage(whole[0], ignored) if whole else ObjectImages(tuple(longer))

    return _paired("png", listed, files, pair_masks(files, listed, images, of_objects=True), source_of)


def _coco(images: Path, file: Path, with_crowds: bool) -> ClickDataset:
    content = read_coco(file)
    entries, annotations = list[Any](), content["annotations"]
    dataset = ClickDataset("coco", [], [], [])
    by_image: dict[Any, list[Any]] = {}
    for position, entry in enumerate(content["images"]):
        fields = entry if isinstance(entry, dict) else {}
        if isinstance(fields.get("id"), int | str) and coco_name(fields):
            entries.append(entry)
            by_image[entry["id"]] = []
        else:
            dataset.problems.append((f"{file}: image {position}", "it has no id and file_name"))
    for position, annotation in enumerate(annotations):
        try:
            objects = by_image[annotation["image_id"]]
        except (KeyError, TypeError):
            dataset.problems.append((f"{file}: annotation {position}", "it belongs to no image in the file"))
            continue
        if with_crowds or not annotation.get("iscrowd"):
            objects.append(annotation)
        else:
            dataset.left_out.append(("object", "it is a crowd", f"annotation {annotation.get('id', position)}"))
    require_pycocotools((item.get("segmentation") for objects in by_image.values() for item in objects), "eval")
    found = find_files({coco_name(entry) for entry in entries if by_image[entry["id"]]}, images, SUFFIXES)
    missing = set(found.missing)
    for entry in sorted(entries, key=coco_name):
        name = coco_name(entry)
        if not by_image[entry["id"]]:
            dataset.left_out.append(("image", "it has no objects", name))
        elif name in found.unclear or name in missing:
            why = found.unclear.get(name, f"no file {name!r} in {images}")
            dataset.problems.append((f"{file}: image {entry['id']}", why))
        else:
            path, declared = found.renamed.get(name, name), (entry.get("height"), entry.get("width"))
            source = CocoMasks(file, images / path, tuple(by_image[entry["id"]]), declared)
            dataset.jobs.append(ClickJob(utf8_text(Path(path).as_posix()), images / path, source))
    return dataset
