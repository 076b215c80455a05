"""The true masks of one picture: annotations of SA-1B and COCO, pictures of labels, and of single objects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import read_labels
from sam2fast.datasets.segmentations import area_of, read_sa1b
from sam2fast.io.polygons import rasterise_polygons
from sam2fast.io.rle import encode_rle

IMAGE = "its image"  # for messages
# More objects in a picture of labels than in any data set: it is a photograph, or depths.
MOST_LABELS = 10_000


class TrueMask(NamedTuple):
    """One object."""

    id: str  # in its data set
    rle: Mapping[str, Any]  # COCO's run lengths, compressed or not, of the image's size
    area: int  # in pixels


class FoundMasks(NamedTuple):
    """What could be read of an image's masks, and a line on each that could not."""

    masks: list[TrueMask]
    problems: list[str]


class MaskSource(Protocol):
    """Where the true masks of one image are; can be pickled."""

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """The masks of an image of ``size`` (H, W); some may be empty.

        Raises:
            DatasetError: none can be read, or they are of another size.
        """
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that are read."""
        ...


@dataclass(frozen=True)
class _OneFile:
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)


@dataclass(frozen=True)
class Sa1bMasks(_OneFile):
    """A JSON file as SA-1B has one for each image."""

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        return _read_annotations(self.file, read_sa1b(self.file), size)


@dataclass(frozen=True)
class CocoMasks(_OneFile):
    """One image's annotations in a file of COCO's."""

    annotations: tuple[Any, ...]
    declared: tuple[Any, Any]  # the image's (height, width) by the file

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        if self.declared not in (size, (None, None)):
            height, width = self.declared
            raise DatasetError(f"{self.file} says it has {width}x{height} pixels, but it has {size[1]}x{size[0]}")
        return _read_annotations(self.file, self.annotations, size)


@dataclass(frozen=True)
class LabelPicture(_OneFile):
    """A palette or grey PNG: 0 is no object, every other value is one.

    Attributes:
        ignored: values that are no objects either.
    """

    ignored: tuple[int, ...] = ()

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        labels = read_labels(self.file, size, IMAGE)
        values, areas = np.unique(labels, return_counts=True)
        if len(values) > MOST_LABELS:
            raise DatasetError(f"{self.file} has {len(values)} different values: that is no picture of labels")
        objects = [
            TrueMask(str(value), encode_rle(labels == value), int(area))
            for value, area in zip(values.tolist(), areas, strict=True)
            if value != 0 and value not in self.ignored
        ]
        return FoundMasks(objects, [])


@dataclass(frozen=True)
class ObjectPictures:
    """A PNG for each object: what is not 0."""

    files: tuple[Path, ...]

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        found = FoundMasks([], [])
        for file in self.files:
            try:
                mask = read_labels(file, size, IMAGE) != 0
            except DatasetError as error:
                found.problems.append(str(error))
            else:
                found.masks.append(TrueMask(file.stem, encode_rle(mask), int(mask.sum())))
        return found


def _read_annotations(file: Path, annotations: Iterable[Any], size: tuple[int, int]) -> FoundMasks:
    found = FoundMasks([], [])
    for position, annotation in enumerate(annotations):
        name = str(position)
        try:
            name = str(annotation.get("id", position))
            rle = annotation["segmentation"]
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
