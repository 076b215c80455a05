"""Masks in JSON files of COCO, SA-1B and SA-V: run lengths and polygons.

Functions raise :class:`DatasetError` for damaged content, and ``ImportError`` for polygons without pycocotools.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import DatasetError, read_json
from sam2fast.io.rle import rasterise_polygons, read_run_lengths
from sam2fast.kernels.run_lengths import RunLengths
from sam2fast.utils.errors import MissingLibraryError

COCO_LISTS = ("images", "annotations")


def read_coco(path: Path) -> dict[str, Any]:
    """Reads a file of COCO instances with lists of images and annotations. Elements of the lists are not checked."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in COCO_LISTS):
        raise DatasetError(f"{path} is not COCO's: it has no lists of {' and '.join(COCO_LISTS)}")
    counts = Counter(str(image["id"]) for image in content["images"] if isinstance(image, dict) and "id" in image)
    if repeated := [i for i, count in counts.items() if count > 1]:
        raise DatasetError(f"{path}: {len(repeated)} ids belong to several images, such as {repeated[0]}")
    return content


def read_sa1b(path: Path) -> list[Any]:
    """Reads the annotations in a file of SA-1B. The annotations are not checked."""
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise DatasetError(f'{path} has no list of annotations: expected the key "annotations", as in SA-1B\'s files')
    return annotations


def require_pycocotools(segmentations: Iterable[Any], extra: str) -> None:
    """Raises ``ImportError``, which names the extra, if there are polygons and pycocotools is not installed."""
    if importlib.util.find_spec("pycocotools") is None and any(isinstance(item, list) for item in segmentations):
        raise MissingLibraryError(f"polygons need pycocotools: pip install 'sam2fast[{extra}]'")


def run_lengths_of(segmentation: Any, size: tuple[int, int] | None = None, where: str = "") -> RunLengths:
    """Returns checked run lengths of ``size`` (H, W), required for polygons. Error messages begin with ``where``."""
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
    """Decodes a segmentation to a bool mask ``(H, W)``. See :func:`run_lengths_of` for arguments."""
    counts = run_lengths_of(segmentation, size, where).counts.numpy()
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def area_of(segmentation: Any, size: tuple[int, int] | None = None, where: str = "") -> int:
    """Returns the number of pixels of a segmentation. See :func:`run_lengths_of` for arguments."""
    return int(run_lengths_of(segmentation, size, where).counts[1::2].sum())
