"""Writes masks of images in the formats COCO, YOLO, LabelMe, Label Studio, PNG, NPZ and GeoJSON."""

import functools
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sam2fast.io.atomic import atomic_path, atomic_write
from sam2fast.io.image_files import as_rgb, has_eight_bits, image_format, read_header, read_image
from sam2fast.io.image_names import relative_names, utf8_text
from sam2fast.io.images import write_jpeg
from sam2fast.io.label_maps import label_png, paint_labels, row_major
from sam2fast.io.png import encode_png
from sam2fast.io.rle import RLE, decode_rle, read_run_lengths
from sam2fast.io.tiff_header import Place
from sam2fast.kernels.run_lengths import run_length_areas
from sam2fast.results.coco import coco_entry
from sam2fast.results.formats import FILES
from sam2fast.results.label_files import (
    labelme_document,
    labelme_mask,
    labelme_polygons,
    yolo_data,
    yolo_line,
    yolo_polygon,
)
from sam2fast.results.label_studio import label_studio_interface, label_studio_task
from sam2fast.results.overlaps import boxes_of
from sam2fast.results.polygons import polygons_of

# Suffixes of images that are copied unchanged, by format. Ultralytics silently ignores files with other suffixes.
COPIED = {
    "BMP": (".bmp",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SHOWN_BY_BROWSERS = COPIED.keys() - {"TIFF"}
TOLERANCE = 1.0  # maximum distance in pixels of a polygon from the outline of its mask
JPEG_QUALITY = 95
WGS84 = 4326  # EPSG code of GeoJSON's default coordinates
_log = logging.getLogger(__name__)
COCO_FILE = "masks.json"


class AnnotatedImage(NamedTuple):
    """Stores the masks of an image, or of a frame of a video.

    Attributes:
        image: File of the image, or RGB pixels ``(H, W, 3)`` uint8. Formats with images beside labels copy the file, or
            write the pixels as JPEG. Other formats use only the name.
        stem: Name of the files for this image, without suffix.
        size: Size (H, W) of the image as displayed.
        rles: Compressed run lengths of N masks, largest mask first.
        labels: Class of each mask.
        scores: Predicted IoU of each mask.
        classes: All classes of the data set, ordered by number.
        numbers: Number of each mask in formats with a number for each object. By default, masks are counted from 1.
    """

    image: str | Path | np.ndarray
    stem: str
    size: tuple[int, int]
    rles: Sequence[RLE]
    labels: Sequence[str]
    scores: Sequence[float]
    classes: Sequence[str] = ("object",)
    numbers: Sequence[int] | None = None

    @property
    def boxes(self) -> list[list[int] | None]:
        """Returns COCO's box [x, y, width, height] of each mask, or None for an empty mask."""
        return boxes_of(read_run_lengths(self.rles)) if self.rles else []


def write_masks(folder: str | Path, images: Iterable[AnnotatedImage], name: str, tolerance: float = TOLERANCE) -> None:
    """Writes the masks of images in one of :data:`FORMATS`. Each file is written atomically.

    An image is checked before its files are written. Counts of run lengths may be bytes, as pycocotools returns them.

    Args:
        folder: Folder for the files that docs/formats.md describes, without the subfolder of the format that commands
            create: ``folder/labels/STEM.txt`` for ``"yolo-seg"``. The first file creates the folder.
        images: Images with masks, written one by one. A generator is possible.
        name: Name of the format.
        tolerance: Maximum distance in pixels between polygons and outlines of masks. 0 gives exact outlines.

    Raises:
        ValueError: If the format does not exist, an image has too many masks for the format, images have different
            ``classes``, ``classes`` lacks a label of an image, two images have one stem, or an image's masks, labels
            and scores do not fit together or to its size.
        ImportError: If a format has polygons, the tolerance is not 0, and shapely is not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; expected one of {', '.join(FORMATS)}")
    folder, items = Path(folder), _checked(images)
    if name == "coco":
        return _write_coco(folder, items)
    for item in items:
        WRITERS[name](folder, item, tolerance)


def _checked(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
    """Yields images with valid masks and stems in UTF-8. All have the same classes, which are written as numbers."""
    classes: list[str] | None = None
    stems: set[str] = set()
    for item in map(_with_plain_types, images):
        if item.stem.casefold() in stems:  # equal names on some systems
            raise ValueError(f"two images have the stem {item.stem!r}, and the same files; give each its own stem")
        stems.add(item.stem.casefold())
        missing = sorted({*item.labels} - {*item.classes})
        if missing:
            raise ValueError(f"{item.stem} has masks of {missing[0]!r}, which is not in its classes {[*item.classes]}")
        if classes not in (None, [*item.classes]):
            raise ValueError(f"{item.stem} has the classes {[*item.classes]}, but previous images have {classes}")
        classes = [*item.classes]
        yield item._replace(stem=utf8_text(item.stem))


def _with_plain_types(item: AnnotatedImage) -> AnnotatedImage:
    """Returns an image with types that JSON can hold. Raises ValueError if masks do not fit to the rest."""
    for what, values in (("labels", item.labels), ("scores", item.scores), ("numbers", item.numbers)):
        if values is not None and len(values) != len(item.rles):
            raise ValueError(f"{item.stem} has {len(item.rles)} masks, but {len(values)} {what}; expected one for each")
    size, rles = (int(item.size[0]), int(item.size[1])), []
    for rle in item.rles:
        found = tuple(rle["size"])
        if found != size:
            order = "; give the size as (height, width)" if found == size[::-1] else ""
            raise ValueError(f"{item.stem} has the size {size}, but a mask has the size {found}{order}")
        counts = rle["counts"]
        rles.append(RLE(size=list(size), counts=counts.decode() if isinstance(counts, bytes) else counts))
    scores = [float(score) for score in item.scores]
    if not np.isfinite(scores).all():
        raise ValueError(f"{item.stem} has the scores {scores}; expected finite numbers")
    image = Path(item.image) if isinstance(item.image, str) else item.image
    numbers = None if item.numbers is None else [int(number) for number in item.numbers]
    return item._replace(image=image, size=size, rles=rles, scores=scores, numbers=numbers)


def _write_coco(folder: Path, images: Iterable[AnnotatedImage]) -> None:
    document: dict[str, list[dict[str, Any]]] = {"images": [], "categories": [], "annotations": []}
    files: list[Path | str] = []
    for number, item in enumerate(images, 1):
        files.append(item.image if isinstance(item.image, Path) else f"{item.stem}.jpg")
        document["images"].append({"id": number, "file_name": "", "height": item.size[0], "width": item.size[1]})
        document["categories"] = [{"id": i, "name": label} for i, label in enumerate(item.classes, 1)]
        areas = run_length_areas(read_run_lengths(item.rles)).tolist() if item.rles else []
        for box, area, (rle, label, score) in zip(item.boxes, areas, _objects(item), strict=True):
            ids = {"id": len(document["annotations"]) + 1, "image_id": number}
            category = list(item.classes).index(label) + 1
            document["annotations"].append(ids | coco_entry(category, rle, box or [0, 0, 0, 0], area, score=score))
    for entry, name in zip(document["images"], relative_names(files), strict=True):
        entry["file_name"] = name
    _write(folder / COCO_FILE, json.dumps(document).encode())


def _write_yolo(folder: Path, item: AnnotatedImage, tolerance: float, with_polygons: bool = False) -> None:
    """Writes an image of a data set for ultralytics: ``data.yaml``, the image, and a line of numbers per object."""
    lines, (height, width) = [], item.size
    for box, (rle, label, _) in zip(item.boxes, _objects(item), strict=True):
        if box:
            x, y, w, h = box
            values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if with_polygons:
                values = yolo_polygon(polygons_of(rle, tolerance), item.size)
            lines.append(yolo_line(list(item.classes).index(label), values))
    _write_image(folder / "images", item)
    _write(folder / FILES["yolo"].format(item.stem), "".join(lines).encode())
    _write(folder / "data.yaml", yolo_data(item.classes).encode())


def _write_labelme(folder: Path, item: AnnotatedImage, tolerance: float, with_pixels: bool = False) -> None:
    shapes: list[dict[str, Any]] = []
    for number, box, (rle, label, _) in zip(_numbers(item), item.boxes, _objects(item), strict=True):
        if box and with_pixels:
            shapes.append(labelme_mask(decode_rle(rle), box, label, number))
        elif box:
            shapes += labelme_polygons(polygons_of(rle, tolerance), label, number)
    document = labelme_document(_write_image(folder, item).name, item.size, shapes)
    _write(folder / FILES["labelme"].format(item.stem), document.encode())


def _write_label_studio(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    image = f"{os.path.basename(os.path.abspath(folder))}/{_write_image(folder, item, SHOWN_BY_BROWSERS).name}"
    shown = [entry for entry, box in zip(_objects(item), item.boxes, strict=True) if box]
    task = label_studio_task(image, ((decode_rle(rle), label, score) for rle, label, score in shown))
    _write(folder / FILES["label-studio"].format(item.stem), json.dumps(task).encode())
    _write(folder / "label_config.xml", label_studio_interface(item.classes).encode())


def _write_png(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    _write(folder / FILES["png"].format(item.stem), label_png(paint_labels(item.rles, *item.size, item.numbers)))


def _write_npz(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    count = len(item.rles)
    boxes = np.array([box or [0, 0, 0, 0] for box in item.boxes], dtype=np.int64).reshape(count, 4)
    columns = {
        "boxes": np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        "scores": np.array(item.scores, dtype=np.float32),
        "labels": np.array(item.labels, dtype=np.str_),
    }
    head = {"descr": "|b1", "fortran_order": False, "shape": (count, *item.size)}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(folder / FILES["npz"].format(item.stem)) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, column, allow_pickle=False)
        with archive.open("masks.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, head)
            for rle in item.rles:  # only one mask is in memory at a time
                file.write(row_major(decode_rle(rle)).data)


def _write_geojson(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    place = _place_of(item)
    features = [
        {
            "type": "Feature",
            "properties": {"id": number, "name": label, "score": score},
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[_closed(ring, place) for ring in (part.outer, *part.holes)] for part in parts],
            },
        }
        for number, (rle, label, score) in zip(_numbers(item), _objects(item), strict=True)
        if (parts := polygons_of(rle, tolerance))
    ]
    system = {}
    if place is not None and place.epsg != WGS84:  # GDAL, QGIS and geopandas read the member "crs"
        system = {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"}}}
    content = json.dumps({"type": "FeatureCollection", **system, "features": features})
    _write(folder / FILES["geojson"].format(item.stem), content.encode())


def _place_of(item: AnnotatedImage) -> Place | None:
    """Returns the georeference of an image, or None if coordinates are pixels."""
    header = read_header(item.image) if isinstance(item.image, Path) and item.image.is_file() else None
    if header is None or not header.is_georeferenced:
        return None
    page = header.images[0]
    if header.place is None or item.size != (page.height, page.width):
        _log.warning("%s has no transform with an EPSG code: GeoJSON coordinates are pixels", item.image)
        return None
    return header.place


def _closed(ring: np.ndarray, place: Place | None) -> list[list[float]]:
    """Closes a ring without changing its orientation. If ``place`` is not None, converts pixels to coordinates."""
    if place is not None:
        a, b, c, d, e, f = place.transform
        ring = ring @ np.array([[a, d], [b, e]]) + (c, f)
        ring = ring if a * e - b * d > 0 else ring[::-1]
    corners: list[list[float]] = ring.tolist()
    return [*corners, corners[0]]


def _numbers(item: AnnotatedImage) -> Sequence[int]:
    return range(1, len(item.rles) + 1) if item.numbers is None else item.numbers


def _objects(item: AnnotatedImage) -> Iterator[tuple[RLE, str, float]]:
    return zip(item.rles, item.labels, item.scores, strict=True)


def _write_image(folder: Path, item: AnnotatedImage, copied: Collection[str] = COPIED) -> Path:
    """Writes an image beside its labels, and returns the path. Copies 8-bit files of the formats ``copied``.

    The header states the format. A copy whose suffix is of another format gets the format's suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = Path(item.image) if isinstance(item.image, str) else item.image
    kind = image_format(image) if isinstance(image, Path) else None
    if isinstance(image, np.ndarray):
        path = folder / f"{item.stem}.jpg"
    elif kind not in COPIED:
        path, image = folder / f"{item.stem}.jpg", _pixels_of(image)
    elif kind in copied and has_eight_bits(image):
        suffixes = COPIED[kind]
        path = folder / f"{item.stem}{image.suffix if image.suffix.lower() in suffixes else suffixes[0]}"
        if path.exists() and path.samefile(image):
            return path
    else:
        path, image = folder / f"{item.stem}.png", _pixels_of(image)
    with atomic_path(path) as partial:
        if isinstance(image, Path):
            shutil.copyfile(image, partial)
        elif path.suffix == ".png":
            partial.write_bytes(encode_png(image))
        else:
            write_jpeg(Image.fromarray(image), partial, JPEG_QUALITY)
    return path


def _pixels_of(file: Path) -> np.ndarray:
    return as_rgb(image := read_image(file), image.own_scale())


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


# Maps names of formats to writers: functions of a folder, an image with masks, and the tolerance of polygons.
WRITERS: dict[str, Callable[[Path, AnnotatedImage, float], None]] = {
    "yolo": _write_yolo,
    "yolo-seg": functools.partial(_write_yolo, with_polygons=True),
    "labelme": _write_labelme,
    "labelme-mask": functools.partial(_write_labelme, with_pixels=True),
    "label-studio": _write_label_studio,
    "png": _write_png,
    "npz": _write_npz,
    "geojson": _write_geojson,
}
FORMATS = ("coco", *WRITERS)
