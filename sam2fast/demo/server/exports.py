"""What was found, as files to take away."""

import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.palette_masks import MOST_OBJECTS, label_png
from sam2fast.demo.server.colours import colour_of
from sam2fast.demo.server.errors import BadInputError, BusyError, NotFoundError, shown
from sam2fast.demo.server.film_writer import FilmWriter
from sam2fast.demo.server.masks import ObjectMask
from sam2fast.demo.server.pictures import frame_pictures
from sam2fast.io.rle import decode_rle
from sam2fast.video_results.coco import coco_box, to_coco_video
from sam2fast.video_results.drawing import area_of, tint

AT_ONCE = threading.Semaphore(2)  # they compress pictures, which takes a processor each
PNG_EFFORT = 1  # of photographs with little to gain
DEFAULT_RATE = 24.0
SECONDS_TO_WAIT = 10.0  # for other exports to be done with; whoever waits holds a thread


class Exported(NamedTuple):
    """What is known of a session, and stays as it is while files are made of it.

    Attributes:
        file: of the video.
        frames: how many it has.
        size: (H, W).
        rate: frames per second.
        masks: by frame, in order, and by object.
    """

    file: Path
    frames: int
    size: tuple[int, int]
    rate: float | None
    masks: Mapping[int, Mapping[int, ObjectMask]]

    @property
    def stem(self) -> str:
        """Begins the names of files; of an upload's the first digits tell enough."""
        return self.file.stem[:16]

    @property
    def objects(self) -> list[int]:
        """All ids, in order."""
        return sorted({object_id for masks in self.masks.values() for object_id in masks})


class Made(NamedTuple):
    """A file that lies somewhere, and what the client should call it."""

    path: Path
    name: str
    content_type: str


class _Format(NamedTuple):
    write: Callable[[Exported, Path], None]
    suffix: str
    content_type: str


def make(exported: Exported, kind: str, folder: Path) -> Made:
    """Makes a file, which is the caller's.

    Args:
        kind: ``masks_png``: a zip of palette pictures; ``coco_rle``: JSON in COCO's format for videos;
            ``overlay_mp4``: the film with the masks in colour; ``cutout``: a zip of pictures in which all but the
            objects is transparent.
        folder: where it comes to lie.

    Raises:
        BadInputError: no such format.
        NotFoundError: there are no masks yet.
        BusyError: others are exporting.
    """
    if kind not in FORMATS:
        raise BadInputError(f"there is no format {shown(kind)}; expected one of {', '.join(FORMATS)}")
    if not exported.masks:
        raise NotFoundError("there are no masks yet: click on something first")
    if not AT_ONCE.acquire(timeout=SECONDS_TO_WAIT):
        raise BusyError("busy with other downloads; try again in a minute")
    write, suffix, content_type = FORMATS[kind]
    path = folder / f"{uuid4()}{Path(suffix).suffix}"
    try:
        write(exported, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        AT_ONCE.release()
    return Made(path, exported.stem + suffix, content_type)


def _write_masks(exported: Exported, path: Path) -> None:
    """Palette pictures as ``sam2fast track --format png`` writes them: 1 for the first object, 2 for the second, ..."""
    labels = {object_id: number for number, object_id in enumerate(exported.objects, 1)}
    if len(labels) > MOST_OBJECTS:
        raise BadInputError(f"a palette picture has room for {MOST_OBJECTS} objects, there are {len(labels)}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, masks in exported.masks.items():
            picture = np.zeros(exported.size, dtype=np.uint8)
            for object_id, mask in masks.items():
                picture[decode_rle(mask.visible)] = labels[object_id]
            archive.writestr(f"{frame:05d}.png", label_png(picture, compress_level=PNG_EFFORT))


def _write_coco(exported: Exported, path: Path) -> None:
    lines = ({"frame": frame, "objects": list(_entries(masks))} for frame, masks in exported.masks.items())
    document = to_coco_video(lines, exported.size, exported.frames, exported.stem)
    path.write_text(json.dumps(document), encoding="utf-8")


def _entries(masks: Mapping[int, ObjectMask]) -> Iterator[dict[str, Any]]:
    for object_id, mask in masks.items():
        pixels = decode_rle(mask.rle)
        area, box = int(pixels.sum()), coco_box(pixels)
        yield {"id": object_id, "rle": dict(mask.rle), "area": area, "box": box, "score": None}


def _write_overlay(exported: Exported, path: Path) -> None:
    """All of the film, so that it can be laid beside the original; frames without masks are as they were."""
    rate = Fraction(exported.rate or DEFAULT_RATE).limit_denominator(1001)
    with FilmWriter(path, *exported.size, rate) as film:
        for frame, picture in frame_pictures(exported.file):
            drawn = np.array(picture, order="C")
            for object_id, mask in exported.masks.get(frame, {}).items():
                pixels = decode_rle(mask.visible)
                area = area_of(pixels)
                if area is not None:
                    tint(drawn, area, pixels[area], colour_of(object_id))
            film.add(drawn)


def _write_cutouts(exported: Exported, path: Path) -> None:
    last = max(exported.masks)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, picture in frame_pictures(exported.file):
            if frame in exported.masks:
                cutout = Image.fromarray(_cut_out(picture, exported.masks[frame]))
                archive.writestr(f"{frame:05d}.png", _png(cutout))
            if frame == last:
                return


def _cut_out(picture: NDArray[np.uint8], masks: Mapping[int, ObjectMask]) -> NDArray[np.uint8]:
    """``(H, W, 4)``: the objects as they are; elsewhere nothing, not even a colour."""
    seen = np.zeros(picture.shape[:2], dtype=bool)
    for mask in masks.values():
        seen |= decode_rle(mask.rle)
    return np.dstack([picture * seen[..., None], np.where(seen, 255, 0)]).astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=PNG_EFFORT)
    return file.getvalue()


FORMATS: Mapping[str, _Format] = {
    "masks_png": _Format(_write_masks, "_masks.zip", "application/zip"),
    "coco_rle": _Format(_write_coco, "_coco.json", "application/json"),
    "overlay_mp4": _Format(_write_overlay, "_overlay.mp4", "video/mp4"),
    "cutout": _Format(_write_cutouts, "_cutout.zip", "application/zip"),
}
