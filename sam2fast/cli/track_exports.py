"""Tracked masks in the formats of other programs: a file, and where the format has images an image, for each frame."""

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

import numpy as np
from tqdm import tqdm

from sam2fast.cli.track_folder import Line, RunFolder
from sam2fast.cli.track_request import PROBE_SIZE, TrackRequest
from sam2fast.cli.user_errors import as_user_error
from sam2fast.mask_formats.writers import FILES, WITH_IMAGES, AnnotatedImage, write_masks
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_results.record import RecordIndex


def write_exports(folder: RunFolder, request: TrackRequest) -> None:
    """Writes the requested formats of :data:`sam2fast.mask_formats.FORMATS` that are missing or incomplete.

    Raises:
        UserError: a file cannot be written, or the video cannot be read.
    """
    # "png" and "coco" have files of their own for videos.
    asked = [name for name in FILES if name in request.formats and name != "png"]
    missing = [name for name in asked if not folder.has(folder.path / name, tolerance=request.tolerance)]
    if not missing:
        return
    with as_user_error(OSError, ValueError, ImportError), closing(RecordIndex(folder.record)) as record:
        for item in _items(record, folder, request, any(name in WITH_IMAGES for name in missing)):
            for name in missing:
                write_masks(folder.path / name, [item], name, request.tolerance)
        for name in missing:
            folder.made(folder.path / name, tolerance=request.tolerance)


def _items(
    record: RecordIndex, folder: RunFolder, request: TrackRequest, with_images: bool
) -> Iterator[AnnotatedImage]:
    """The masks of each tracked frame, with its pixels if they are needed, which reads the video again."""
    size, classes = (folder["size"]["height"], folder["size"]["width"]), [str(name) for name in request.objects]
    no_pixels = np.empty((0, 0, 3), dtype=np.uint8)
    with tqdm(total=len(record), desc="export", disable=False if request.progress else None) as bar:
        if not with_images:
            for frame in record:
                yield _item(record[frame], no_pixels, size, classes)
                bar.update()
            return
        # A broken video was reported during tracking; the files end there.
        with read_frames(request.source.to_open, PROBE_SIZE) as reader, suppress(VideoError):
            for image in reader:
                if image.index in record:
                    yield _item(record[image.index], image.rgb, size, classes)
                    bar.update()


def _item(line: Line, rgb: np.ndarray, size: tuple[int, int], classes: Sequence[str]) -> AnnotatedImage:
    shown = [entry for entry in line["objects"] if entry["area"]]
    rles, scores = [entry["rle"] for entry in shown], [entry["score"] for entry in shown]
    return AnnotatedImage(
        rgb, f"{line['frame']:05d}", size, rles, [str(entry["id"]) for entry in shown], scores, classes
    )
