"""A film written frame by frame, which appears when it is finished."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from sam2fast.cli.errors import one_line
from sam2fast.video_io.film_file import FilmFile, film_failures

CRF = 20  # x264's quality
TICK = Fraction(1, 90_000)  # of a second; the usual unit, in which most rates are whole numbers
DEFAULT_RATE = 25.0  # of folders of pictures


class Film:
    """An MP4 file with H.264 and yuv420p, of any size; odd sides get one more row or column.

    Args:
        path: where it appears.
        rate: frames per second, for frames that have no times.

    Raises:
        NoEncoderError: PyAV is not installed, or has no encoder for H.264.
        UserError: the file cannot be made.
    """

    def __init__(self, path: Path, height: int, width: int, rate: float | None) -> None:
        self._rate = rate or DEFAULT_RATE
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._first, self._last, self._count = 0.0, -1, 0
        whole_rate = Fraction(self._rate).limit_denominator(1001)
        self._failures: tuple[type[Exception], ...] = OSError, *film_failures()
        from av.video.frame import VideoFrame

        self._frame_from = VideoFrame.from_ndarray
        with one_line(*self._failures):
            self._file = FilmFile(path, height + height % 2, width + width % 2, whole_rate, TICK, CRF)

    def add(self, picture: np.ndarray, time: float | None) -> None:
        """Adds a frame.

        Args:
            picture: ``(H, W, 3)`` uint8.
            time: in seconds, when it is shown; the first one's is taken for the beginning.

        Raises:
            UserError: the file cannot be written.
        """
        if self._padding != ((0, 0), (0, 0), (0, 0)):
            picture = np.pad(picture, self._padding, mode="edge")
        seconds = self._count / self._rate if time is None else time
        if self._count == 0:
            self._first = seconds
        self._last = max(round((seconds - self._first) / TICK), self._last + 1)
        self._count += 1
        with one_line(*self._failures):
            self._file.add(self._frame_from(picture, format="rgb24"), self._last)

    def finish(self) -> None:
        """Makes the film appear, if it has any frames.

        Raises:
            UserError: it cannot be written.
        """
        if not self._count:
            return self.discard()
        with one_line(*self._failures):
            self._file.finish()

    def discard(self) -> None:
        """Leaves nothing behind, unless the film has appeared."""
        self._file.discard()
