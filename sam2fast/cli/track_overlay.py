"""Draws the overlay of ``sam2fast track``: the video with the masks in colour."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from sam2fast.cli.prompts import ObjectId
from sam2fast.cli.track_folder import OVERLAY, Line, RunFolder
from sam2fast.cli.user_errors import as_user_error, print_note
from sam2fast.io.overlay import colour_of_number, draw_ids, draw_objects
from sam2fast.io.rle import decode_rle
from sam2fast.video_io import FrameReader
from sam2fast.video_io.video_writer import NoEncoderError, VideoWriter, encoding_errors

CRF = 20  # constant rate factor of x264
FINEST = 90_000  # minimum number of time-base units per second
DEFAULT_RATE = 25.0  # frames per second of the overlay of a folder of images


class OverlayWriter:
    """Atomically writes an MP4 file (H.264, yuv420p). Pads an odd height or width by one row or column.

    A frame's duration is a multiple of the time base, so all frames of a source with a constant rate are equally long.

    Args:
        rate: Frames per second of the source. Frames without times have this rate, divided by ``step``.
        time_unit: Unit of the source's times in seconds. Sources round times to this unit, so a time within one unit
            of a multiple of a frame's duration becomes this multiple. From the first time without such a multiple on,
            the rate is variable, and times are kept.
        pixel_aspect: Width of a pixel divided by its height.
        step: Distance of the frames in the source.

    Raises:
        NoEncoderError: If PyAV is not installed, or has no encoder for H.264.
        UserError: If the file cannot be written. All methods raise UserError.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: float | None,
        pixel_aspect: Fraction = Fraction(1),
        time_unit: float = 0.0,
        step: int = 1,
    ) -> None:
        self._rate = Fraction(rate or DEFAULT_RATE).limit_denominator(1001) / step
        self._tick = Fraction(1, self._rate.numerator * -(-FINEST // self._rate.numerator))
        self._unit, self._is_constant = time_unit + float(self._tick), True
        self._odd = height % 2, width % 2
        self._first, self._last, self._count = 0.0, -1, 0
        self._expected_errors: tuple[type[Exception], ...] = OSError, *encoding_errors()
        from av.video.frame import VideoFrame

        self._frame_from = VideoFrame.from_ndarray
        with as_user_error(*self._expected_errors):
            size = height + height % 2, width + width % 2
            self._file = VideoWriter(path, *size, self._rate, self._tick, CRF, pixel_aspect=pixel_aspect)

    def add(self, image: np.ndarray, time: float | None) -> None:
        """Adds a frame ``(H, W, 3)`` uint8, shown at ``time`` in seconds. The first frame starts the video."""
        seconds = float(self._count / self._rate) if time is None else time
        if self._count == 0:
            self._first = seconds
        seconds -= self._first
        frames = round(seconds * self._rate)
        self._is_constant = self._is_constant and abs(seconds - frames / self._rate) <= self._unit
        ticks = round((frames / self._rate if self._is_constant else seconds) / self._tick)
        self._last = max(ticks, self._last + 1)
        self._count += 1
        if any(self._odd):
            image = np.pad(image, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        with as_user_error(*self._expected_errors):
            self._file.add(self._frame_from(image, format="rgb24"), self._last)

    @property
    def part(self) -> tuple[float, float]:
        """The start of the frames in the source and their total duration, in seconds."""
        return self._first, float(self._last * self._tick + 1 / self._rate)

    def finish(self) -> None:
        """Finishes the file. Removes a file without frames."""
        if not self._count:
            return self.discard()
        with as_user_error(*self._expected_errors):
            self._file.finish()

    def discard(self) -> None:
        """Removes an unfinished file."""
        self._file.discard()


class FrameDrawing:
    """Draws recorded masks on frames, each object in its colour, with its id if ``show_ids`` is True."""

    def __init__(self, objects: Sequence[ObjectId], show_ids: bool) -> None:
        self._colours = {obj_id: colour_of_number(number) for number, obj_id in enumerate(objects)}
        self._show_ids = show_ids

    def draw(self, rgb: np.ndarray, line: Line) -> np.ndarray:
        """Returns a copy of the frame ``(H, W, 3)`` uint8 with the masks of its line."""
        shown = [(entry, self._colours[entry["id"]]) for entry in line["objects"] if entry["area"]]
        image = draw_objects(rgb, ((decode_rle(one.get("visible", one["rle"])), colour) for one, colour in shown))
        if not self._show_ids:
            return image
        return np.asarray(draw_ids(image, ((str(one["id"]), one["box"][:2], colour) for one, colour in shown)))


def open_overlay(folder: RunFolder, reader: FrameReader, step: int) -> OverlayWriter | None:
    """Returns the overlay's writer. Without an encoder, prints a note and returns None."""
    try:
        return OverlayWriter(
            folder.path / OVERLAY, reader.height, reader.width, reader.rate, reader.pixel_aspect, reader.time_unit, step
        )
    except NoEncoderError as error:
        print_note(f"no {OVERLAY}, since {error}")
        return None


def copy_sound(source: Path, overlay: Path, start: float, seconds: float) -> None:
    """Adds a part of the source's sound. Prints a note if the sound cannot be added."""
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.sound import add_sound

    try:
        add_sound(overlay, VideoInput.of_file(source), start, seconds)
    except encoding_errors() as error:
        print_note(f"{OVERLAY} has no sound: {error}")
