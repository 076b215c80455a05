"""Videos of a session's objects: in colour, before a green screen, as a matte, and alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from sam2fast.demo.server.demo_errors import BadVideoError
from sam2fast.demo.server.export_data import ExportData, object_colour
from sam2fast.demo.server.video_files import DemoVideoWriter
from sam2fast.io.overlay import draw_objects
from sam2fast.io.rle import decode_rle
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.sound import add_sound
from sam2fast.video_io.video_writer import label_colours, to_yuv

GREEN = np.array((0x00, 0xB1, 0x40), dtype=np.uint8)  # of chroma keys
VP9_OPTIONS = {"b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"}
PRORES_OPTIONS = {"profile": "4444", "vendor": "apl0"}  # some editors refuse files of other vendors

_Draw = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]  # of an image and its frame, makes the drawn image


def write_plain(data: ExportData, path: Path) -> None:
    """The video itself, with its sound: for a page that draws on it."""
    _write_mp4(data, path, lambda image, frame: image)


def write_overlay(data: ExportData, path: Path) -> None:
    """The video with the masks in colour, and its sound; frames without masks stay unchanged."""

    def draw(image: NDArray[np.uint8], frame: int) -> NDArray[np.uint8]:
        masks = data.masks.get(frame, {})
        # The last object comes first: where masks overlap, the later one is seen.
        objects = ((decode_rle(masks[i].visible), object_colour(i)) for i in reversed([*masks]))
        return draw_objects(image, objects)

    _write_mp4(data, path, draw)


def write_green_screen(data: ExportData, path: Path) -> None:
    """The objects before green, with the video's sound."""

    def draw(image: NDArray[np.uint8], frame: int) -> NDArray[np.uint8]:
        alpha = data.alpha(frame, image)[..., None].astype(np.uint16)
        return ((image * alpha + GREEN * (255 - alpha) + 127) // 255).astype(np.uint8)

    _write_mp4(data, path, draw)


def write_matte(data: ExportData, path: Path) -> None:
    """The objects in white on black, without sound."""

    def draw(image: NDArray[np.uint8], frame: int) -> NDArray[np.uint8]:
        return np.repeat(data.alpha(frame, image)[..., None], 3, axis=2)

    _write_mp4(data, path, draw, has_sound=False)


def write_transparent(data: ExportData, path: Path) -> None:
    """The objects alone, as WebM with alpha (VP9), with the video's sound."""
    _write_with_alpha(data, path, "webm", "libvpx-vp9", "yuva420p", {**VP9_OPTIONS, "crf": str(data.quality.vp9)})


def write_prores(data: ExportData, path: Path) -> None:
    """The objects alone, as QuickTime with alpha (ProRes 4444), with the video's sound."""
    _write_with_alpha(data, path, "mov", "prores_ks", "yuva444p10le", PRORES_OPTIONS)


def _write_with_alpha(
    data: ExportData, path: Path, file_format: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    # PyAV cannot state a pixel aspect ratio in WebM, so pixels become square.
    height, width = data.size[0], max(1, round(data.size[1] * data.pixel_aspect))
    try:
        with av.open(str(path.absolute()), "w", format=file_format) as container:
            stream: Any = container.add_stream(codec, rate=data.steady_rate, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, pixels
            label_colours(stream)
            for index, image in data.images():
                frame = av.VideoFrame.from_ndarray(np.dstack([image, data.alpha(index, image)]), format="rgba")
                container.mux(stream.encode(to_yuv(frame, pixels, width=width)))
            container.mux(stream.encode())
    except (FFmpegError, ValueError) as error:
        raise BadVideoError(f"the video cannot be encoded: {error}") from error
    add_sound_of(data, path)


def _write_mp4(data: ExportData, path: Path, draw: _Draw, has_sound: bool = True) -> None:
    with DemoVideoWriter(path, *data.size, data.steady_rate, data.pixel_aspect, data.quality.x264) as video:
        for frame, image in data.images():
            video.add(draw(image, frame))
    if has_sound:
        add_sound_of(data, path)


def add_sound_of(data: ExportData, path: Path) -> None:
    """Adds the sound of the video that the page plays, which has the part that the source's frames show."""
    try:
        add_sound(path, VideoInput.of_file(data.file))
    except (FFmpegError, ValueError, OSError) as error:
        raise BadVideoError(f"the sound cannot be encoded: {error}") from error
