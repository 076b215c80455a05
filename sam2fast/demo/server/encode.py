"""Encodes frames that a page has drawn, for browsers that cannot, and for videos with transparency."""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from sam2fast.demo.server.demo_errors import BadInputError, BadVideoError, shortened
from sam2fast.demo.server.exports import ExportData
from sam2fast.demo.server.settings import MEBIBYTE
from sam2fast.demo.server.video_files import DemoVideoWriter, pixel_aspect_of
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.sound import add_sound
from sam2fast.video_io.video_writer import label_colours

CONTENT_TYPES = {"mp4": "video/mp4", "webm": "video/webm"}
VP9_OPTIONS = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"}
MARGIN = 1  # pixels by which drawn frames may be larger than the video: sizes are even
MAX_FRAME_BYTES = 16 * MEBIBYTE


def encode(frames: Path, kind: str, video: ExportData, folder: Path) -> Path:
    """Encodes a ZIP of images in the order of their names, with the video's sound; the caller deletes the file.

    Args:
        kind: ``mp4`` (H.264), or ``webm``, which keeps transparency (VP9 with alpha).
        video: the video that was drawn on; the images may be a pixel larger.
        folder: the folder of the new file.

    Raises:
        BadInputError: there is no such kind, or the file is no ZIP of such images.
        BadVideoError: the video cannot be encoded.
    """
    if kind not in CONTENT_TYPES:
        raise BadInputError(f"there is no format {shortened(kind)}; expected one of {', '.join(CONTENT_TYPES)}")
    target, write = folder / f"{uuid4()}.{kind}", _write_mp4 if kind == "mp4" else _write_webm
    images = _images(frames, video)
    first = next(images, None)
    if first is None:
        raise BadInputError("there are no frames")
    try:
        write(chain([first], images), (first.shape[0], first.shape[1]), target, video)
        try:
            add_sound(target, VideoInput.of_file(video.file))
        except (FFmpegError, ValueError, OSError) as error:
            raise BadVideoError(f"the sound cannot be encoded: {error}") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _images(frames: Path, video: ExportData) -> Iterator[NDArray[np.uint8]]:
    """The images as RGBA ``(H, W, 4)``."""
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
                    yield np.asarray(image.convert("RGBA"))
    except (*IMAGE_READ_ERRORS, zipfile.BadZipFile) as error:
        raise BadInputError(f"expected a ZIP of images: {shortened(str(error))}") from error


def _write_mp4(images: Iterator[NDArray[np.uint8]], size: tuple[int, int], path: Path, video: ExportData) -> None:
    with DemoVideoWriter(path, *size, video.steady_rate, pixel_aspect_of(video.file)) as file:
        for image in images:
            file.add(image[..., :3])


def _write_webm(images: Iterator[NDArray[np.uint8]], size: tuple[int, int], path: Path, video: ExportData) -> None:
    # PyAV cannot state a pixel aspect ratio in WebM, so pixels become square.
    height, width = size[0], max(1, round(size[1] * pixel_aspect_of(video.file)))
    try:
        with av.open(str(path.absolute()), "w", format="webm") as container:
            stream: Any = container.add_stream("libvpx-vp9", rate=video.steady_rate, options=VP9_OPTIONS)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuva420p"
            label_colours(stream)
            for image in images:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgba")
                container.mux(stream.encode(frame.reformat(width=width, format="yuva420p")))
            container.mux(stream.encode())
    except (FFmpegError, ValueError) as error:
        raise BadVideoError(f"the video cannot be encoded: {error}") from error
