"""The true masks of one picture: annotations of SA-1B and COCO, pictures of labels, and of single objects."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2fast.kernels.run_lengths import run_length_areas
from sam2fast.polygons import rasterise_polygons
from sam2fast.rle import encode_rle, read_run_lengths
from sam2fast.training.data.errors import BadSampleError
from sam2fast.training.data.files import read_labels

# More objects in a picture of labels than in any data set: it is a photograph, or depths.
MOST_LABELS = 10_000


class BadMasksError(ValueError):
    """The masks of an image that cannot be read, or are not the image's."""


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
            BadMasksError: none can be read, or they are of another size.
        """
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that are read."""
        ...


@dataclass(frozen=True)
class Sa1bMasks:
    """A JSON file as SA-1B has one for each image."""

    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        content = read_json(self.file)
        annotations = content.get("annotations")
        if not isinstance(annotations, list):
            raise BadMasksError(f"{self.file} has no list of annotations")
        return _read_annotations(self.file, annotations, size)


@dataclass(frozen=True)
class CocoMasks:
    """One image's annotations in a file of COCO's."""

    file: Path
    annotations: tuple[Any, ...]
    declared: tuple[Any, Any]  # the image's (height, width) by the file

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        if self.declared not in (size, (None, None)):
            height, width = self.declared
            raise BadMasksError(f"{self.file} says it has {width}x{height} pixels, but it has {size[1]}x{size[0]}")
        return _read_annotations(self.file, self.annotations, size)


@dataclass(frozen=True)
class LabelPicture:
    """A palette or grey PNG: 0 is no object, every other value is one.

    Attributes:
        ignored: values that are no objects either.
    """

    file: Path
    ignored: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`MaskSource`."""
        return (self.file,)

    def read(self, size: tuple[int, int]) -> FoundMasks:
        """See :class:`MaskSource`."""
        labels = _read_picture(self.file, size)
        values, areas = np.unique(labels, return_counts=True)
        if len(values) > MOST_LABELS:
            raise BadMasksError(f"{self.file} has {len(values)} different values: that is no picture of labels")
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
                mask = _read_picture(file, size) != 0
            except BadMasksError as error:
                found.problems.append(str(error))
            else:
                found.masks.append(TrueMask(file.stem, encode_rle(mask), int(mask.sum())))
        return found


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        BadMasksError: it cannot be read, or does not hold an object.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise BadMasksError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadMasksError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadMasksError(f"{file} holds no JSON object")
    return content


def _read_picture(file: Path, size: tuple[int, int]) -> NDArray[np.generic]:
    try:
        labels = read_labels(file)
    except BadSampleError as error:
        raise BadMasksError(str(error)) from error
    if labels.shape != size:
        raise BadMasksError(f"{file} has {labels.shape[1]}x{labels.shape[0]} pixels, its image {size[1]}x{size[0]}")
    return labels


def _read_annotations(file: Path, annotations: Iterable[Any], size: tuple[int, int]) -> FoundMasks:
    found = FoundMasks([], [])
    for position, annotation in enumerate(annotations):
        name = str(position)
        try:
            name = str(annotation.get("id", position))
            rle = _run_lengths(annotation["segmentation"], size)
            area = int(run_length_areas(read_run_lengths([rle]))[0])
        except KeyError as error:
            found.problems.append(f"{file}: annotation {name} has no {error}")
        except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
            found.problems.append(f"{file}: annotation {name}: {error}")
        else:
            found.masks.append(TrueMask(name, rle, area))
    return found


def _run_lengths(segmentation: Any, size: tuple[int, int]) -> Mapping[str, Any]:
    if isinstance(segmentation, list):
        return rasterise_polygons(segmentation, size)
    if not isinstance(segmentation, Mapping):
        raise ValueError("its segmentation is neither polygons nor run lengths")
    height, width = segmentation["size"]
    if (height, width) != size:
        raise ValueError(f"its mask has {width}x{height} pixels, the image {size[1]}x{size[0]}")
    return {"size": [height, width], "counts": segmentation["counts"]}
