"""Writes the files that ``sam2fast track`` derives from its record, in one pass over the video."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast.cli.command_files import make_folder, write_atomically
from sam2fast.cli.prompts import ObjectId
from sam2fast.cli.reporting import progress_bar
from sam2fast.cli.track_folder import COCO, MOT, OVERLAY, PNGS, Line, RunFolder, label_map
from sam2fast.cli.track_overlay import FrameDrawing, OverlayWriter, copy_sound, open_overlay
from sam2fast.cli.track_request import TrackRequest
from sam2fast.cli.user_errors import as_user_error, print_note
from sam2fast.io.image_names import utf8_text
from sam2fast.io.images import SUFFIXES
from sam2fast.io.label_maps import MOST_LABELS, label_png
from sam2fast.io.made_from import is_whole
from sam2fast.io.rle import decode_rle
from sam2fast.results import FrameMasks, to_coco_video, write_dicom_seg, write_nifti
from sam2fast.results.formats import FILES, VOLUME_FILES, WITH_IMAGES
from sam2fast.results.image_writers import AnnotatedImage, write_masks
from sam2fast.results.mot import to_mot
from sam2fast.results.object_numbers import object_numbers, positions_note
from sam2fast.results.record import RecordIndex
from sam2fast.video_io import StreamFrame, VideoError, read_frames
from sam2fast.video_io.video_types import PROBE_SIZE

VOLUMES = {"nifti": write_nifti, "dicom-seg": write_dicom_seg}
# Maximum numbers in formats with numbers for objects. The formats after "mot" also have the ids as text.
MOST_NUMBERS: dict[str, int | None] = {"png": MOST_LABELS, "nifti": MOST_LABELS, "mot": None}
MOST_NUMBERS |= dict.fromkeys(("coco", "labelme", "labelme-mask", "geojson"))
WITH_NOTE = ("png", "nifti", "mot")
FILE_NAMES = {"png": PNGS, "coco": COCO, "mot": MOT, **VOLUME_FILES}  # other formats have a folder of their name


def write_outputs(folder: RunFolder, request: TrackRequest) -> None:
    """Writes the requested files that are missing or incomplete. Raises UserError if a file cannot be written."""
    with as_user_error(OSError, ValueError, ImportError), closing(RecordIndex(folder.record)) as record:
        if not len(record):
            return
        request = _with_outdated(record, folder, request)
        numbers = {name: _numbers(name, folder, request) for name in MOST_NUMBERS if name in request.formats}
        if note := positions_note({name: numbers[name] for name in WITH_NOTE if name in numbers}):
            print_note(note)
        if "png" in request.formats:
            _write_pngs(record, folder, request, numbers["png"])
        if "coco" in request.formats and not folder.has(folder.path / COCO, **_options("coco", folder, request)):
            _write_coco(record, folder, request)
        if "mot" in request.formats and not folder.has(folder.path / MOT, **_options("mot", folder, request)):
            lines = (record[t] for t in sorted(record))
            write_atomically(folder.path / MOT, to_mot(lines, numbers["mot"]).encode())
            folder.made(folder.path / MOT, **_options("mot", folder, request))
        for name in VOLUMES.keys() & set(request.formats):
            options = _options(name, folder, request)
            if not folder.has(file := folder.path / VOLUME_FILES[name], **options):
                VOLUMES[name](file, request.source.to_open, _visible(record))
                folder.made(file, **options)
        _write_frames(record, folder, request)


def _numbers(name: str, folder: RunFolder, request: TrackRequest) -> dict[ObjectId, int]:
    """Returns the number of each object in a format."""
    return object_numbers([*request.objects, *folder["objects"]], MOST_NUMBERS.get(name))


def _options(name: str, folder: RunFolder, request: TrackRequest) -> dict[str, Any]:
    """Returns the options of a format for the manifest. Version 0.3 wrote no numbers there, and positions in files."""
    options: dict[str, Any] = {"tolerance": request.tolerance} if name in FILES and name != "png" else {}
    if name in MOST_NUMBERS:
        options["numbers"] = [[*pair] for pair in _numbers(name, folder, request).items()]
    return options


def _with_outdated(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> TrackRequest:
    """Adds the formats of existing files with other numbers, so that all files of the folder have equal numbers."""
    files = {name: folder.path / FILE_NAMES.get(name, name) for name in MOST_NUMBERS if name not in request.formats}
    if "png" in files and not (files["png"] / f"{request.frame_name(request.frames(record)[0])}.png").exists():
        del files["png"]  # the folder has only other files
    outdated = [
        name
        for name, file in files.items()
        if file.exists() and folder.numbers(file) != _options(name, folder, request)["numbers"]
    ]
    return replace(request, formats=(*request.formats, *outdated))


def _visible(record: RecordIndex) -> Iterator[FrameMasks]:
    """Yields the visible masks of each frame: without pixels that other objects cover."""
    for line in (record[frame] for frame in sorted(record)):
        masks = [decode_rle(entry.get("visible", entry["rle"])) for entry in line["objects"]]
        yield FrameMasks(line["frame"], [entry["id"] for entry in line["objects"]], np.stack(masks), None)


def _write_pngs(record: RecordIndex, folder: RunFolder, request: TrackRequest, numbers: Mapping[ObjectId, int]) -> None:
    images, frames, options = folder.path / PNGS, request.frames(record), _options("png", folder, request)
    make_folder(images)
    are_numbered = folder.numbers(images) == options["numbers"]
    with progress_bar("images", len(frames), "images") as bar:
        for frame in frames:
            file = images / f"{request.frame_name(frame)}.png"
            if not (are_numbered and is_whole(file)):  # kept, since the masks of a frame never change
                write_atomically(file, label_png(label_map(record.get(frame), numbers, folder.size)))
            bar.update()
    folder.made(images, **options)


def _write_coco(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> None:
    file, source = folder.path / COCO, request.source
    name = "camera" if source.camera is not None else Path(source.text).stem or "video"
    if request.frame_files:
        name = os.path.basename(os.path.abspath(source.text))
    name = utf8_text(name)
    files = [f"{name}/{utf8_text(file.name)}" for file in request.frame_files]
    length = len(files) or max(folder["frames"] or 0, max(record) + 1)
    document = to_coco_video(record.values(), folder.size, length, name, files or None)
    write_atomically(file, (json.dumps(document) + "\n").encode())
    folder.made(file, **_options("coco", folder, request))


def _write_frames(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> None:
    """Writes the overlay, and the formats with a file for each frame. Reads the video if images are needed.

    The overlay ends at the end of the video. If only a part was tracked, the overlay ends at the end of the record.
    """
    source, frames, overlay_file = request.source, request.frames(record), folder.path / OVERLAY
    asked = [name for name in FILES if name in request.formats and name != "png"]  # _write_pngs writes the format "png"
    missing = [name for name in asked if not folder.has(folder.path / name, **_options(name, folder, request))]
    # The overlay of a camera or URL is drawn during tracking.
    lacks_overlay = "overlay" in request.formats and not source.is_live
    lacks_overlay = lacks_overlay and not folder.has(overlay_file, ids=request.show_ids)
    if not (missing or lacks_overlay):
        return
    drawing, last = FrameDrawing(folder["objects"], request.show_ids), max(frames[-1], max(record))
    shows = lacks_overlay or any(name in WITH_IMAGES for name in missing)
    with ExitStack() as opened:
        reader = opened.enter_context(read_frames(source.to_open, PROBE_SIZE)) if shows else None
        overlay: OverlayWriter | None = None
        if lacks_overlay and reader is not None:
            overlay = open_overlay(folder, reader, request.step)
            opened.callback(overlay.discard if overlay else lambda: None)
        to_end = overlay is not None and request.last is None and folder.complete
        stop = (reader.count if reader is not None else None) if to_end else last + 1
        begin = request.start + (request.offset - request.start) % request.step
        count = None if stop is None else len(range(begin, stop, request.step))
        bar = opened.enter_context(progress_bar("files", count, "frames"))
        for frame, image in _images(reader, range(begin, last + 1, request.step), to_end):
            line = record.get(frame)
            if overlay is not None and image is not None:
                overlay.add(image.rgb if line is None else drawing.draw(image.rgb, line), image.time)
            if missing and frame in frames:
                item = _item(line, frame, image, folder, request)
                for name in missing:
                    write_masks(folder.path / name, [item], name, request.tolerance)
            bar.update()
        if overlay is not None:
            overlay.finish()
            file = Path(source.text)
            if file.is_file() and not source.is_volume and file.suffix.lower() not in SUFFIXES:
                copy_sound(file, overlay_file, *overlay.part)
            folder.made(overlay_file, ids=request.show_ids)
    for name in missing:
        folder.made(folder.path / name, **_options(name, folder, request))


def _images(
    reader: Iterator[StreamFrame] | None, frames: range, to_end: bool
) -> Iterator[tuple[int, StreamFrame | None]]:
    """Yields frame numbers, with images if there is a reader. If ``to_end`` is True, adds all later video frames."""
    if reader is None:
        yield from ((frame, None) for frame in frames)
        return
    with suppress(VideoError):  # tracking has reported the broken video; the files end at the last readable frame
        for image in reader:
            if image.index >= frames.start and (image.index - frames.start) % frames.step == 0:
                yield image.index, image
            if not to_end and image.index >= frames[-1]:
                return


def _item(
    line: Line | None, frame: int, image: StreamFrame | None, folder: RunFolder, request: TrackRequest
) -> AnnotatedImage:
    shown = [] if line is None else [entry for entry in line["objects"] if entry["area"]]
    rles, scores = [entry["rle"] for entry in shown], [entry["score"] for entry in shown]
    labels, classes = [str(entry["id"]) for entry in shown], [str(name) for name in folder["objects"]]
    of_objects = object_numbers([*request.objects, *folder["objects"]])
    numbers = [of_objects[entry["id"]] for entry in shown]
    rgb = np.empty((0, 0, 3), dtype=np.uint8) if image is None else image.rgb
    return AnnotatedImage(rgb, request.frame_name(frame), folder.size, rles, labels, scores, classes, numbers)
