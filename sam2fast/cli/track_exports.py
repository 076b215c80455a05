"""Tracked masks in the formats of other programs: a file, and where the format has images an image, for each frame."""

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice

import numpy as np

from sam2fast.cli.command_files import VOLUME_FILES
from sam2fast.cli.reporting import progress_bar
from sam2fast.cli.track_folder import Line, RunFolder
from sam2fast.cli.track_request import PROBE_SIZE, TrackRequest
from sam2fast.cli.user_errors import as_user_error
from sam2fast.io.rle import decode_rle
from sam2fast.mask_formats.writers import FILES, WITH_IMAGES, AnnotatedImage, write_masks
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_results import FrameMasks, write_dicom_seg, write_nifti
from sam2fast.video_results.record import RecordIndex


def write_volumes(folder: RunFolder, request: TrackRequest) -> None:
    """Writes the requested label volumes that are missing or incomplete, on the grid of the tracked volume."""
    writers = {"nifti": write_nifti, "dicom-seg": write_dicom_seg}
    for name, write in writers.items():
        file = folder.path / VOLUME_FILES[name]
        if name not in request.formats or folder.has(file):
            continue
        with as_user_error(OSError, ValueError, ImportError), closing(RecordIndex(folder.record)) as record:
            if len(record):
                write(file, request.source.to_open, (_visible(record[frame]) for frame in sorted(record)))
                folder.made(file)


def _visible(line: Line) -> FrameMasks:
    """The masks of a frame without what other objects cover."""
    objects = line["objects"]
    masks = [decode_rle(entry.get("visible", entry["rle"])) for entry in objects]
    return FrameMasks(line["frame"], [entry["id"] for entry in objects], np.stack(masks), None)


def write_exports(folder: RunFolder, request: TrackRequest) -> None:
    """Writes the requested formats of :data:`sam2fast.mask_formats.FORMATS` that are missing or incomplete."""
    write_volumes(folder, request)
    # "png" and "coco" have files of their own for videos.
    asked = [name for name in FILES if name in request.formats and name != "png"]
    missing = [name for name in asked if not folder.has(folder.path / name, tolerance=request.tolerance)]
    if not missing:
        return
    with as_user_error(OSError, ValueError, ImportError), closing(RecordIndex(folder.record)) as record:
        if not len(record):
            return
        for item in _items(record, folder, request, any(name in WITH_IMAGES for name in missing)):
            for name in missing:
                write_masks(folder.path / name, [item], name, request.tolerance)
        for name in missing:
            folder.made(folder.path / name, tolerance=request.tolerance)


def _items(
    record: RecordIndex, folder: RunFolder, request: TrackRequest, with_images: bool
) -> Iterator[AnnotatedImage]:
    """The masks of each frame, with its pixels if they are needed, which reads the video again."""
    frames, no_pixels = request.frames(record), np.empty((0, 0, 3), dtype=np.uint8)
    with progress_bar("export", len(frames), "frames") as bar:
        if not with_images:
            for frame in frames:
                yield _item(record.get(frame), frame, no_pixels, folder, request)
                bar.update()
            return
        # A broken video was reported during tracking; the files end there.
        with read_frames(request.source.to_open, PROBE_SIZE) as reader, suppress(VideoError):
            for image in islice(reader, frames.stop):
                if image.index in frames:
                    yield _item(record.get(image.index), image.index, image.rgb, folder, request)
                    bar.update()


def _item(line: Line | None, frame: int, rgb: np.ndarray, folder: RunFolder, request: TrackRequest) -> AnnotatedImage:
    shown = [] if line is None else [entry for entry in line["objects"] if entry["area"]]
    rles, scores = [entry["rle"] for entry in shown], [entry["score"] for entry in shown]
    labels, classes = [str(entry["id"]) for entry in shown], [str(name) for name in folder["objects"]]
    return AnnotatedImage(rgb, request.frame_name(frame), folder.size, rles, labels, scores, classes)
