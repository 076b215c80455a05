"""Masks in JSON files, as COCO, SA-1B and SA-V have them: run lengths and polygons."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import FrameKey, read_json
from sam2fast.io.polygons import rasterise_polygons
from sam2fast.io.rle import read_run_lengths
from sam2fast.kernels.run_lengths import RunLengths

COCO_LISTS = ("images", "annotations")


def read_coco(path: Path) -> dict[str, Any]:
    """The content of a file of COCO's instances; what is in its lists is not checked.

    Raises:
        DatasetError: it cannot be read, or has no lists of images and annotations.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in COCO_LISTS):
        raise DatasetError(f"{path} is not COCO's: it has no lists of {' and '.join(COCO_LISTS)}")
    return content


def read_sa1b(path: Path) -> list[Any]:
    """The annotations in a file of SA-1B; what is in them is not checked.

    Raises:
        DatasetError: it cannot be read, or has no list of annotations.
    """
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise DatasetError(f'{path} has no list of annotations: expected the key "annotations", as in SA-1B\'s files')
    return annotations


def require_pycocotools(segmentations: Iterable[Any], extra: str) -> None:
    """Raises ``ImportError``, which names the extra, if some of these are polygons and pycocotools is missing."""
    if importlib.util.find_spec("pycocotools") is None and any(isinstance(each, list) for each in segmentations):
        raise ImportError(f"polygons need pycocotools: pip install 'sam2fast[{extra}]'")


def run_lengths_of(segmentation: Any, size: tuple[int, int] | None = None, where: str = "") -> RunLengths:
    """The run lengths of one segmentation, checked.

    Args:
        size: (height, width) that it must have; needed for polygons.
        where: what the message begins with.

    Raises:
        DatasetError: damaged, of another size, or neither run lengths nor polygons.
        ImportError: polygons, and pycocotools is not installed.
    """
    try:
        if isinstance(segmentation, list) and size is not None:
            segmentation = rasterise_polygons(segmentation, size)
        if not isinstance(segmentation, Mapping):
            raise ValueError(f"a mask must be run lengths or polygons, got {str(segmentation)[:60]}")
        runs = read_run_lengths([segmentation])
        if size is not None and runs.size != size:
            height, width = runs.size
            raise ValueError(f"the mask has {width}x{height} pixels, its frame {size[1]}x{size[0]}; must be equal")
    except (LookupError, TypeError, OverflowError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        raise DatasetError(f"{where}: {why}" if where else why) from error
    return runs


def decode_segmentation(segmentation: Any, size: tuple[int, int], where: str = "") -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of a segmentation; arguments and errors as for :func:`run_lengths_of`."""
    counts = run_lengths_of(segmentation, size, where).counts.numpy()
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def area_of(segmentation: Any, size: tuple[int, int] | None = None, where: str = "") -> int:
    """Pixels in a segmentation; arguments and errors as for :func:`run_lengths_of`."""
    return int(run_lengths_of(segmentation, size, where).counts[1::2].sum())


class SegmentAnnotations:
    """Objects of an image by their run lengths or polygons, decoded when they are needed, and once.

    Follows the official ``training.dataset.vos_segment_loader.LazySegments``.

    Args:
        segments: by object id.
        where: for messages: the file they are from, and what an id is called in it.
    """

    def __init__(self, segments: Mapping[int, Any], where: str) -> None:
        self._segments, self._where = segments, where
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """All objects, as those without a pixel were left out before."""
        return tuple(self._segments)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.datasets.frame_masks.Annotations`."""
        return np.stack([self._decode(i, size) for i in object_ids])

    def _decode(self, i: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        if i not in self._masks:
            self._masks[i] = decode_segmentation(self._segments[i], size, f"{self._where} {i}")
        return self._masks[i]
