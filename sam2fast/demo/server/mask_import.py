"""Reads masks that a user brings: a label image, or COCO's JSON for images or for videos; or a ZIP of either.

Masks of another size than the video, but of its shape, are resized.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.displayed import has_same_ratio
from sam2fast.demo.server.demo_errors import BadInputError, shortened
from sam2fast.demo.server.page_masks import read_mask
from sam2fast.demo.server.prompt_limits import MAX_OBJECTS
from sam2fast.demo.server.settings import MEBIBYTE
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image
from sam2fast.io.rle import RLE, decode_rle, encode_rle, rasterise_polygons
from sam2fast.results.coco import CATEGORY

ENDINGS = (".json", ".png")
PNG, ZIP = b"\x89PNG", b"PK\x03\x04"
MAX_UNPACKED_BYTES = 64 * MEBIBYTE
MAX_PIXELS = 1 << 25  # of a mask
EXPECTED = "a PNG with labels, COCO's JSON, or a ZIP of either"
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # what Finder adds to a ZIP
WHITE = 255  # of an image with the mask of one object
LABEL_MODES = ("P", "L", "1", "I;16", "I")
NO_CLASS = str(CATEGORY["name"])
SIDES = ("height", "width")
# Keys by which annotations of several images are one object.
TRACK_KEYS = ("track_id", "instance_id", "object")


class ImportedObject(NamedTuple):
    """An object of the file: its class, or an empty text, and its masks by frame, in order, none of them empty."""

    name: str
    label: str
    masks: dict[int, RLE]


class VideoShape(NamedTuple):
    """The video that the masks are for.

    Attributes:
        frames: number of frames.
        size: (H, W).
    """

    frames: int
    size: tuple[int, int]


def read_masks(content: bytes, video: VideoShape, frame: int) -> list[ImportedObject]:
    """The objects of a file in the order in which they are found. A single label image belongs to ``frame``.

    Raises:
        BadInputError: the content is of no known format, damaged, empty, or for another video; says what is wrong.
    """
    found: dict[Any, ImportedObject] = {}
    try:
        for number, (key, name, label, at, mask) in enumerate(_entries(content, frame, video)):
            if number >= video.frames * MAX_OBJECTS:
                raise BadInputError(f"there are more than {MAX_OBJECTS} masks for each frame of the video")
            if not 0 <= at < video.frames:
                raise BadInputError(f"there is a mask on frame {at}; the video has the frames 0 to {video.frames - 1}")
            if mask.any():
                masks = found.setdefault(key, ImportedObject(name, label, {})).masks
                if at in masks:
                    raise BadInputError(f"{shortened(name)} has two masks on frame {at}; expected those of one video")
                masks[at] = encode_rle(mask)
    except (*IMAGE_READ_ERRORS, zipfile.BadZipFile) as error:
        raise BadInputError(f"the file cannot be read as masks: {shortened(str(error))}") from error
    if not found:
        raise BadInputError("the file has no masks")
    return [one._replace(masks=dict(sorted(one.masks.items()))) for one in found.values()]


Entry = tuple[Any, str, str, int, NDArray[np.bool_]]  # key, name and class of the object, frame, mask


def _entries(content: bytes, frame: int, video: VideoShape) -> Iterator[Entry]:
    if content.startswith(PNG):
        yield from _label_image(content, frame, video.size)
    elif content.startswith(ZIP):
        with zipfile.ZipFile(BytesIO(content)) as archive:
            files = [info for info in archive.infolist() if not HIDDEN.search(info.filename)]
            documents, images = ([i for i in files if i.filename.lower().endswith(e)] for e in ENDINGS)
            if sum(info.file_size for info in documents or images) > MAX_UNPACKED_BYTES:
                raise BadInputError(f"the files have more than {MAX_UNPACKED_BYTES // MEBIBYTE} MB")
            for info in documents:
                yield from _coco(archive.read(info), video)
            folders = {info.filename.rpartition("/")[0] for info in images}
            for info in () if documents else images:
                folder = info.filename.rpartition("/")[0] if len(folders) > 1 else ""
                # A photograph has one frame, whatever the file is called.
                at = 0 if video.frames == len(images) == 1 else _number_in(info.filename)
                yield from _label_image(archive.read(info), at, video.size, folder)
    else:
        yield from _coco(content, video)


def _label_image(content: bytes, frame: int, size: tuple[int, int], folder: str = "") -> Iterator[Entry]:
    """The objects of a label image; those of another folder are others, such as in SA-V, with a folder for each."""
    image = open_image(BytesIO(content))
    if image.mode not in LABEL_MODES:
        raise BadInputError(f"an image has the mode {image.mode}; expected a palette or grey, 0 for the background")
    labels = _fitted(np.asarray(image).astype(np.int32), size)
    for label in np.unique(labels[labels > 0]).tolist():
        name = f"Object {label}" if not folder else folder if label == WHITE else f"{folder} {label}"
        yield (folder, label), name, "", frame, labels == label


def _number_in(name: str) -> int:
    """The frame that a file is named after."""
    numbers = re.findall(r"\d+", name.rsplit("/", 1)[-1])
    if not numbers:
        raise BadInputError(f"{shortened(name)} has no frame number in its name; expected names such as 00000.png")
    return int(numbers[-1][-9:])


def _coco(content: bytes, video: VideoShape) -> Iterator[Entry]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadInputError(f"the file cannot be read as masks: expected {EXPECTED}") from error
    if not isinstance(document, Mapping) or "annotations" not in document:
        raise BadInputError(f"the file cannot be read as masks: it has no annotations; expected {EXPECTED}")
    if len({annotation.get("video_id") for annotation in document["annotations"]}) > 1:
        raise BadInputError("the annotations are of several videos; expected those of one")
    names = {category["id"]: str(category["name"]) for category in document.get("categories", [])}
    images = {image["id"]: image for image in document.get("images", [])}
    for number, annotation in enumerate(document["annotations"], 1):
        category = names.get(annotation.get("category_id"), NO_CLASS)
        name = str(annotation.get("name") or f"{category} {number}")
        label = "" if category == NO_CLASS else category
        if "segmentations" in annotation:
            for frame, segmentation in enumerate(annotation["segmentations"]):
                if segmentation is not None:
                    yield number, name, label, frame, _segmentation(segmentation, annotation, video.size)
            continue
        image = images.get(annotation["image_id"])
        if image is None:
            asked = shortened(annotation["image_id"])
            raise BadInputError(f"annotation {number} is of image {asked}, which is not there")
        if "segmentation" not in annotation:
            raise BadInputError(f"annotation {number} has no segmentation")
        track = next((annotation[key] for key in TRACK_KEYS if key in annotation), None)
        key = number if track is None else ("track", str(track))
        # A photograph has one frame, whatever the file is called.
        frame = 0 if video.frames == len(images) == 1 else _number_in(str(image["file_name"]))
        yield key, name, label, frame, _segmentation(annotation["segmentation"], image, video.size)


def _segmentation(segmentation: Any, stated: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of run lengths, or of polygons of an image whose height and width may be stated."""
    is_rle = isinstance(segmentation, Mapping)
    height, width = segmentation["size"] if is_rle else (stated.get(k, v) for k, v in zip(SIDES, size, strict=True))
    is_size = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    if not is_size or height * width > MAX_PIXELS:
        raise BadInputError(f"a mask has the size {shortened([height, width])}; expected at most {MAX_PIXELS} pixels")
    if is_rle:
        return _fitted(read_mask(segmentation, (height, width)), size)
    mask = decode_rle(rasterise_polygons(segmentation, (height, width))) if segmentation else np.zeros(size, dtype=bool)
    return _fitted(mask, size)


def _fitted(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resizes a mask or label image to the video by the nearest pixels. Raises BadInputError for another shape."""
    if not has_same_ratio((mask.shape[0], mask.shape[1]), size):
        raise BadInputError(f"a mask has the size {list(mask.shape)}; expected the shape of {list(size)}")
    y, x = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, mask.shape, strict=True))
    return mask[np.ix_(y.astype(int), x.astype(int))]
