"""Writes the masks of images as COCO, YOLO, LabelMe, Label Studio, PNG, NPZ and GeoJSON."""

import functools
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sam2fast.io.atomic import atomic_path, atomic_write
from sam2fast.io.image_files import as_rgb, has_eight_bits, read_header, read_image
from sam2fast.io.images import write_jpeg
from sam2fast.io.label_maps import label_png, paint_labels, row_major
from sam2fast.io.mask_formats import FILES
from sam2fast.io.png import encode_png
from sam2fast.io.rle import RLE, decode_rle, read_run_lengths
from sam2fast.io.tiff_header import Place
from sam2fast.kernels.run_lengths import run_length_areas
from sam2fast.mask_formats.label_files import (
    labelme_document,
    labelme_mask,
    labelme_polygons,
    yolo_data,
    yolo_line,
    yolo_polygon,
)
from sam2fast.mask_formats.label_studio import label_studio_interface, label_studio_task
from sam2fast.mask_formats.polygons import polygons_of
from sam2fast.video_results.coco_video import coco_entry
from sam2fast.video_results.overlaps import boxes_of

# Of images that are copied; ultralytics leaves out files with other suffixes, without a word.
COPIED_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
BROWSER_SUFFIXES = tuple(suffix for suffix in COPIED_SUFFIXES if suffix not in (".tif", ".tiff"))
TOLERANCE = 1.0  # pixels between a polygon and the outline of its mask
JPEG_QUALITY = 95
WGS84 = 4326  # EPSG's code of the coordinates of GeoJSON
_log = logging.getLogger(__name__)
COCO_FILE = "masks.json"


class AnnotatedImage(NamedTuple):
    """The masks of one image, or of one frame of a video.

    Attributes:
        image: the image's file, which is copied where a format has images beside its labels; or RGB pixels
            ``(H, W, 3)`` uint8, which are written as JPEG. Only its name is used by the other formats.
        stem: the name of the files for this image, without a suffix.
        size: (H, W) of the image as it is displayed.
        rles: of N masks, compressed run lengths, the largest first.
        labels: the class of each mask.
        scores: the predicted IoU of each mask.
        classes: all classes of the data set, in the order of their numbers.
    """

    image: Path | np.ndarray
    stem: str
    size: tuple[int, int]
    rles: Sequence[RLE]
    labels: Sequence[str]
    scores: Sequence[float]
    classes: Sequence[str] = ("object",)

    @property
    def boxes(self) -> list[list[int] | None]:
        """COCO's box [x, y, width, height] of each mask; None for an empty one."""
        return boxes_of(read_run_lengths(self.rles)) if self.rles else []


def write_masks(folder: Path, images: Iterable[AnnotatedImage], name: str, tolerance: float = TOLERANCE) -> None:
    """Writes the masks of images in one of :data:`FORMATS`; each file atomically.

    Args:
        folder: is created with the first file; docs/formats.md describes its files.
        images: written one by one, so that they may come from a generator.
        name: of the format.
        tolerance: largest distance of polygons from the masks' outlines, in pixels; 0 for the outlines themselves.

    Raises:
        ValueError: If no format has this name, an image has more masks than the format can hold, images name different
            classes, or an image lacks a class of its masks.
        ImportError: If polygons have a tolerance, and shapely is not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; expected one of {', '.join(FORMATS)}")
    items = _with_equal_classes(images)
    if name == "coco":
        return _write_coco(folder, items)
    for item in items:
        WRITERS[name](folder, item, tolerance)


def _with_equal_classes(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
    """Yields the images; their classes are numbered together, so all have to name the same ones."""
    classes: list[str] | None = None
    for item in images:
        missing = sorted({*item.labels} - {*item.classes})
        if missing:
            raise ValueError(f"{item.stem} has masks of {missing[0]!r}, which is none of its classes {[*item.classes]}")
        if classes not in (None, [*item.classes]):
            raise ValueError(f"{item.stem} has the classes {[*item.classes]}, images before it {classes}")
        classes = [*item.classes]
        yield item


def _write_coco(folder: Path, images: Iterable[AnnotatedImage]) -> None:
    found: dict[str, list[dict[str, Any]]] = {"images": [], "categories": [], "annotations": []}
    for number, item in enumerate(images, 1):
        file = item.image.name if isinstance(item.image, Path) else f"{item.stem}.jpg"
        found["images"].append({"id": number, "file_name": file, "height": item.size[0], "width": item.size[1]})
        found["categories"] = [{"id": i, "name": label} for i, label in enumerate(item.classes, 1)]
        areas = run_length_areas(read_run_lengths(item.rles)).tolist() if item.rles else []
        for box, area, (rle, label, score) in zip(item.boxes, areas, _objects(item), strict=True):
            ids = {"id": len(found["annotations"]) + 1, "image_id": number}
            category = list(item.classes).index(label) + 1
            found["annotations"].append(ids | coco_entry(category, rle, box or [0, 0, 0, 0], area, score=score))
    _write(folder / COCO_FILE, json.dumps(found).encode())


def _write_yolo(folder: Path, item: AnnotatedImage, tolerance: float, with_polygons: bool = False) -> None:
    """A data set as ultralytics reads it: ``data.yaml``, images, and a line of numbers for each object."""
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
    for number, (box, (rle, label, _)) in enumerate(zip(item.boxes, _objects(item), strict=True), 1):
        if box and with_pixels:
            shapes.append(labelme_mask(decode_rle(rle), box, label, number))
        elif box:
            shapes += labelme_polygons(polygons_of(rle, tolerance), label, number)
    document = labelme_document(_write_image(folder, item).name, item.size, shapes)
    _write(folder / FILES["labelme"].format(item.stem), document.encode())


def _write_label_studio(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    image = f"{folder.resolve().name}/{_write_image(folder, item, BROWSER_SUFFIXES).name}"
    shown = [entry for entry, box in zip(_objects(item), item.boxes, strict=True) if box]
    task = label_studio_task(image, ((decode_rle(rle), label, score) for rle, label, score in shown))
    _write(folder / FILES["label-studio"].format(item.stem), json.dumps(task).encode())
    _write(folder / "label_config.xml", label_studio_interface(item.classes).encode())


def _write_png(folder: Path, item: AnnotatedImage, tolerance: float) -> None:
    _write(folder / FILES["png"].format(item.stem), label_png(paint_labels(item.rles, *item.size)))


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
            for rle in item.rles:  # one mask in memory at a time
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
        for number, (rle, label, score) in enumerate(_objects(item), 1)
        if (parts := polygons_of(rle, tolerance))
    ]
    system = {}
    if place is not None and place.epsg != WGS84:  # GDAL, QGIS and geopandas read this member
        system = {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"}}}
    content = json.dumps({"type": "FeatureCollection", **system, "features": features})
    _write(folder / FILES["geojson"].format(item.stem), content.encode())


def _place_of(item: AnnotatedImage) -> Place | None:
    """Returns the place of an image on earth, or None if its coordinates are pixels."""
    header = read_header(item.image) if isinstance(item.image, Path) and item.image.is_file() else None
    if header is None or not header.is_georeferenced:
        return None
    page = header.images[0]
    if header.place is None or item.size != (page.height, page.width):
        _log.warning("%s has no transform with an EPSG code: coordinates in GeoJSON are pixels", item.image)
        return None
    return header.place


def _closed(ring: np.ndarray, place: Place | None) -> list[list[float]]:
    """Returns a closed ring in pixels, or on earth if there is a place, in the same direction of rotation."""
    if place is not None:
        a, b, c, d, e, f = place.transform
        ring = ring @ np.array([[a, d], [b, e]]) + (c, f)
        ring = ring if a * e - b * d > 0 else ring[::-1]
    corners: list[list[float]] = ring.tolist()
    return [*corners, corners[0]]


def _objects(item: AnnotatedImage) -> Iterator[tuple[RLE, str, float]]:
    return zip(item.rles, item.labels, item.scores, strict=True)


def _write_image(folder: Path, item: AnnotatedImage, copied: Sequence[str] = COPIED_SUFFIXES) -> Path:
    """Writes or copies the image beside its labels, and returns its path. Suffixes in ``copied`` keep 8-bit files."""
    folder.mkdir(parents=True, exist_ok=True)
    image = item.image
    if isinstance(image, np.ndarray):
        path = folder / f"{item.stem}.jpg"
    elif image.suffix.lower() not in COPIED_SUFFIXES:
        path, image = folder / f"{item.stem}.jpg", _pixels_of(image)
    elif image.suffix.lower() in copied and has_eight_bits(image):
        path = folder / f"{item.stem}{image.suffix}"
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


# The writers of an image by name: each takes a folder, the image, and the tolerance of polygons.
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
