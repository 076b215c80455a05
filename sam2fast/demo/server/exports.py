"""Downloads: the masks of a session as files."""

import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from flask import Response, request, send_file
from numpy.typing import NDArray
from PIL import Image

from sam2fast.demo.server.alpha import HARD
from sam2fast.demo.server.demo_errors import BadInputError, BusyError, NotFoundError, shortened
from sam2fast.demo.server.export_data import HIGH, ExportData, safe_name
from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.photos import is_photo, read_cutout
from sam2fast.demo.server.video_exports import (
    write_green_screen,
    write_matte,
    write_overlay,
    write_plain,
    write_prores,
    write_transparent,
)
from sam2fast.io.label_maps import MOST_LABELS, label_dtype, label_png, paint_labels
from sam2fast.io.rle import decode_rle
from sam2fast.results.coco import CATEGORY, coco_box, coco_entry, to_coco_video
from sam2fast.results.image_writers import TOLERANCE
from sam2fast.results.label_files import labelme_document, labelme_polygons, yolo_data, yolo_line, yolo_polygon
from sam2fast.results.object_numbers import object_numbers
from sam2fast.results.outlines import Polygon
from sam2fast.results.polygons import polygons_of

_SLOTS = threading.Semaphore(2)  # each export keeps one CPU core busy
JPEG_QUALITY = 92
PNG_COMPRESSION = 1  # photographs gain little from more
MOST_TOLERANCE = 100  # pixels
SECONDS_TO_WAIT = 10.0  # for other exports; a waiting request holds a thread


class ExportedFile(NamedTuple):
    """A finished file, and its name for the client."""

    path: Path
    name: str
    content_type: str


_Entries = Iterator[tuple[str, bytes | str]]  # names and contents of the files of a ZIP


class _Format(NamedTuple):
    write: Callable[[ExportData, Path], None]
    suffix: str
    content_type: str


def send_once(path: Path, content_type: str, **options: Any) -> Response:
    """Sends a file, and deletes it: it is open already, and its space on the disk is freed after sending."""
    try:
        return send_file(path, content_type, max_age=0, **options)
    finally:
        path.unlink()


def requested_tolerance() -> float:
    """Returns the request's tolerance of polygons. Raises BadInputError if it is no such number."""
    text = request.args.get("tolerance", str(TOLERANCE))
    with suppress(ValueError):
        if 0 <= float(text) <= MOST_TOLERANCE:
            return float(text)
    raise BadInputError(f"tolerance is {shortened(text)}; expected pixels from 0 to {MOST_TOLERANCE}")


@contextmanager
def export_slot() -> Iterator[None]:
    """Waits until one of the few exports that may run at a time can begin. Raises BusyError after some seconds."""
    if not _SLOTS.acquire(timeout=SECONDS_TO_WAIT):
        raise BusyError("busy with other downloads; try again in a minute")
    try:
        yield
    finally:
        _SLOTS.release()


def export(data: ExportData, kind: str, folder: Path) -> ExportedFile:
    """Makes a file; the caller deletes it.

    Args:
        kind: ``masks_png``: a zip of label images; ``coco``: a zip of images with COCO's JSON; ``coco_rle``: the JSON
            of YouTube-VIS, COCO's for videos; ``overlay_mp4``: the video with the masks in colour; ``source_mp4``: the
            video without them; ``green_mp4``, ``matte_mp4``: the objects before a green screen, and white on black;
            ``transparent_webm``, ``prores_mov``: the objects alone; ``cutout``: a zip of images that are transparent
            except for the objects; ``object_mattes``, ``object_cutouts``: a zip with a folder for each object, which
            has an image of each frame: the object in white on black, or alone; ``yolo``, ``labelme``: a zip of images
            with the labels of these programs.
        folder: the folder of the new file.

    Raises:
        BadInputError: If there is no such format, or a quality was chosen for one that is neither MP4 nor WebM, or
            soft edges for one that has no alpha.
        NotFoundError: If there are no masks yet.
        BusyError: If too many exports are running.
        BadVideoError: If the video cannot be encoded.
        CancelledError: If ``data.report`` raises it.
    """
    if kind not in FORMATS:
        raise BadInputError(f"there is no format {shortened(kind)}; expected one of {', '.join(FORMATS)}")
    write, suffix, content_type = FORMATS[kind]
    if data.quality != HIGH and content_type not in ("video/mp4", "video/webm"):
        raise BadInputError(f"{kind} has no choice of quality; MP4 and WebM have")
    if data.edges != HARD and kind not in SOFT:
        raise BadInputError(f"{kind} has no soft edges; expected one of {', '.join(SOFT)}")
    if not data.masks and kind != "source_mp4":
        raise NotFoundError("there are no masks yet: click on something first")
    path = folder / f"{uuid4()}{suffix}"
    with export_slot():
        try:
            write(data, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return ExportedFile(path, data.stem + suffix, content_type)


def count_points(data: ExportData) -> int:
    """Counts the corners of all polygons. Raises BusyError if too many exports are running."""
    with export_slot():
        polygons = (part for frame in data.masks for parts in _polygons(data, frame).values() for part in parts)
        return sum(len(ring) for part in polygons for ring in (part.outer, *part.holes))


def _polygons(data: ExportData, frame: int) -> dict[int, list[Polygon]]:
    """The polygons of each object on a frame."""
    return {i: polygons_of(mask.rle, data.tolerance) for i, mask in data.masks[frame].items()}


def _mask_images(data: ExportData) -> _Entries:
    """Yields images of the objects' ids, as ``sam2fast track --format png`` writes them."""
    labels = object_numbers(data.objects, MOST_LABELS)
    for done, (frame, masks) in enumerate(data.masks.items()):
        data.report(done / len(data.masks))
        numbers = [labels[object_id] for object_id in masks]
        painted = paint_labels([mask.visible for mask in masks.values()], *data.size, numbers)
        yield f"{frame:05d}.png", label_png(painted.astype(label_dtype(labels.values()), copy=False))


def _coco_files(data: ExportData) -> _Entries:
    """The frames that have masks, and ``annotations.json`` as pycocotools reads it."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories, category_of = _coco_categories(data)
    height, width = data.size
    for number, (frame, image) in enumerate(_frames_with_masks(data), 1):
        name = f"{frame:05d}.jpg"
        images.append({"id": number, "file_name": name, "height": height, "width": width, "frame": frame})
        for entry in _coco_objects(data.masks[frame]):
            if entry["area"]:
                ids, facts = (
                    {"id": len(annotations) + 1, "image_id": number},
                    (entry["rle"], entry["box"], entry["area"]),
                )
                annotations.append(ids | coco_entry(category_of[entry["id"]], *facts, track_id=entry["id"]))
        yield f"images/{name}", encoded(image, "JPEG", quality=JPEG_QUALITY)
    document = {"images": images, "annotations": annotations, "categories": categories}
    yield "annotations.json", json.dumps(document)


def _coco_categories(data: ExportData) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Returns the categories, which are the classes, and the category of each object."""
    labels = [data.labels.get(i, CATEGORY["name"]) for i in data.objects]
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*data.listed, *labels]), 1)}
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    return categories, {i: numbers[label] for i, label in zip(data.objects, labels, strict=True)}


def _write_youtube_vis(data: ExportData, path: Path) -> None:
    lines = ({"frame": frame, "objects": list(_coco_objects(masks))} for frame, masks in data.masks.items())
    document = to_coco_video(lines, data.size, data.frames, data.stem)
    rate = data.steady_rate
    document["videos"][0] |= {"fps": float(rate), "timestamps": [round(float(t / rate), 6) for t in range(data.frames)]}
    document["categories"], category_of = _coco_categories(data)
    for annotation in document["annotations"]:
        annotation["name"] = data.name_of(annotation["object"])
        annotation["category_id"] = category_of[annotation["object"]]
    path.write_text(json.dumps(document), encoding="utf-8")


def _coco_objects(masks: Mapping[int, ObjectMask]) -> Iterator[dict[str, Any]]:
    for object_id, mask in masks.items():
        pixels = decode_rle(mask.rle)
        area, box = int(pixels.sum()), coco_box(pixels)
        yield {"id": object_id, "rle": dict(mask.rle), "area": area, "box": box, "score": None}


def _cutouts(data: ExportData) -> _Entries:
    """Yields RGBA images: the objects opaque or with a photograph's own alpha, all else transparent black."""
    for frame, image in _frames_with_masks(data):
        alpha = data.alpha(frame, image)
        yield f"{frame:05d}.png", encoded(_cutout(data, image, alpha), "PNG", compress_level=PNG_COMPRESSION)


def _cutout(data: ExportData, image: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if is_photo(data.file):
        return read_cutout(data.file, lambda _: alpha)
    return np.dstack([image * (alpha > 0)[..., None], alpha])


def _object_mattes(data: ExportData) -> _Entries:
    """Yields the alpha of each object on all frames."""
    return _of_objects(data, lambda image, alpha: alpha)


def _object_cutouts(data: ExportData) -> _Entries:
    return _of_objects(data, partial(_cutout, data))


def _of_objects(
    data: ExportData, draw: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]]
) -> _Entries:
    """Yields an image of each object on all frames, with the source's numbers of frames, in a folder per object."""
    folders = {i: f"{number:02d}_{safe_name(data.name_of(i))}" for number, i in enumerate(data.objects, 1)}
    for frame, image in data.images():
        for i, folder in folders.items():
            drawn = draw(image, data.alpha(frame, image, (i,)))
            yield f"{folder}/{data.first + frame:05d}.png", encoded(drawn, "PNG", compress_level=PNG_COMPRESSION)


def _yolo_files(data: ExportData) -> _Entries:
    """A data set of the frames that have masks, as Ultralytics reads it: images, labels, and the classes' names."""
    classes = data.classes
    yield "data.yaml", yolo_data(classes)
    for frame, image in _frames_with_masks(data):
        lines = [
            yolo_line(classes.index(data.class_of(i)), yolo_polygon(parts, data.size))
            for i, parts in _polygons(data, frame).items()
            if parts
        ]
        yield f"images/{frame:05d}.jpg", encoded(image, "JPEG", quality=JPEG_QUALITY)
        yield f"labels/{frame:05d}.txt", "".join(lines)


def _labelme_files(data: ExportData) -> _Entries:
    """The frames that have masks, each with a file of polygons, as LabelMe reads them."""
    for frame, image in _frames_with_masks(data):
        shapes = [
            shape
            for i, parts in _polygons(data, frame).items()
            for shape in labelme_polygons(parts, data.class_of(i), i)
        ]
        yield f"{frame:05d}.jpg", encoded(image, "JPEG", quality=JPEG_QUALITY)
        yield f"{frame:05d}.json", labelme_document(f"{frame:05d}.jpg", data.size, shapes)


def _frames_with_masks(data: ExportData) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    last = max(data.masks)
    for frame, image in data.images():
        if frame in data.masks:
            yield frame, image
        if frame == last:
            return


def encoded(image: NDArray[np.uint8], form: str, **options: int) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def _zipped(entries: Callable[[ExportData], _Entries], suffix: str) -> _Format:
    def write(data: ExportData, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries(data):
                archive.writestr(name, content)

    return _Format(write, suffix, "application/zip")


FORMATS: Mapping[str, _Format] = {
    "masks_png": _zipped(_mask_images, "_masks.zip"),
    "coco": _zipped(_coco_files, "_coco.zip"),
    "coco_rle": _Format(_write_youtube_vis, "_youtube_vis.json", "application/json"),
    "overlay_mp4": _Format(write_overlay, "_overlay.mp4", "video/mp4"),
    "source_mp4": _Format(write_plain, ".mp4", "video/mp4"),
    "green_mp4": _Format(write_green_screen, "_green.mp4", "video/mp4"),
    "matte_mp4": _Format(write_matte, "_matte.mp4", "video/mp4"),
    "transparent_webm": _Format(write_transparent, "_cutout.webm", "video/webm"),
    "prores_mov": _Format(write_prores, "_cutout.mov", "video/quicktime"),
    "cutout": _zipped(_cutouts, "_cutout.zip"),
    "object_mattes": _zipped(_object_mattes, "_mattes.zip"),
    "object_cutouts": _zipped(_object_cutouts, "_objects.zip"),
    "yolo": _zipped(_yolo_files, "_yolo.zip"),
    "labelme": _zipped(_labelme_files, "_labelme.zip"),
}
# Formats with alpha, which may have soft edges.
SOFT = ("green_mp4", "matte_mp4", "transparent_webm", "prores_mov", "cutout", "object_mattes", "object_cutouts")
