"""Encodes frames that a page has drawn, for browsers that cannot."""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.demo_errors import BadInputError, shortened
from sam2fast.demo.server.export_data import ExportData
from sam2fast.demo.server.settings import MEBIBYTE
from sam2fast.demo.server.video_exports import add_sound_of
from sam2fast.demo.server.video_files import DemoVideoWriter, pixel_aspect_of
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image

MARGIN = 1  # pixels by which drawn frames may be larger than the video: sizes are even
MAX_FRAME_BYTES = 16 * MEBIBYTE


def encode(frames: Path, video: ExportData, folder: Path) -> Path:
    """Encodes a ZIP of images in the order of their names as MP4, with the video's sound; the caller deletes the file.

    Args:
        video: the video that was drawn on; the images may be a pixel larger.
        folder: the folder of the new file.

    Raises:
        BadInputError: the file is no ZIP of such images.
        BadVideoError: the video cannot be encoded.
        CancelledError: by ``video.report``.
    """
    target, images = folder / f"{uuid4()}.mp4", _images(frames, video)
    first = next(images, None)
    if first is None:
        raise BadInputError("there are no frames")
    try:
        height, width = first.shape[:2]
        aspect, crf = pixel_aspect_of(video.file), video.quality.x264
        with DemoVideoWriter(target, height, width, video.steady_rate, aspect, crf) as file:
            for image in chain([first], images):
                video.report(file.count / video.frames)
                file.add(image)
        add_sound_of(video, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _images(frames: Path, video: ExportData) -> Iterator[NDArray[np.uint8]]:
    """The images as RGB ``(H, W, 3)``."""
    try:
        with zipfile.ZipFile(frames) as archive:
            entries = sorted(archive.infolist(), key=lambda info: info.filename)
            if len(entries) > video.frames:
                raise BadInputError(f"there are {len(entries)} images; the video has {video.frames} frames")
            for info in entries:
                if info.file_size > MAX_FRAME_BYTES:
                    raise BadInputError(f"a frame has more than {MAX_FRAME_BYTES // MEBIBYTE} MB")
                with open_image(BytesIO(archive.read(info))) as image:
                    if any(
                        not 0 <= found - side <= MARGIN
                        for found, side in zip(image.size, video.size[::-1], strict=True)
                    ):
                        raise BadInputError(f"a frame has the size {image.size[::-1]}; the video has {video.size}")
                    yield np.asarray(image.convert("RGB"))
    except (*IMAGE_READ_ERRORS, zipfile.BadZipFile) as error:
        raise BadInputError(f"expected a ZIP of images: {shortened(str(error))}") from error
