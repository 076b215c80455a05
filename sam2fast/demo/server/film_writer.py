"""Films as the demo serves them: H.264 in MP4 that any browser plays and can enter at nearly any frame."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.errors import BadVideoError
from sam2fast.video_io.film_file import FilmFile, NoEncoderError, film_failures

CRF = 23  # x264's quality
KEYFRAME_DISTANCE = 12  # half a second: seeking decodes at most so many frames


class FilmWriter:
    """An MP4 file of constant rate that appears under its name when the block ends without an error.

    Args:
        path: where it appears.
        height, width: of its pictures, which are scaled to even sides where these are odd.
        rate: frames per second.

    Raises:
        BadVideoError: no such film can be encoded.
    """

    def __init__(self, path: Path, height: int, width: int, rate: Fraction) -> None:
        self.count = 0
        self._size = max(2, height - height % 2), max(2, width - width % 2)
        try:
            self._failures = film_failures()
            from av.video.frame import VideoFrame

            self._file = FilmFile(
                path,
                *self._size,
                rate,
                tick=1 / rate,
                crf=CRF,
                keyframe_distance=KEYFRAME_DISTANCE,
                threads=1,  # the bytes depend on it, and the model needs the other cores
                # Without B-frames the first frame's time is 0 and needs no edit list, which players treat differently.
                stream_options={"bf": "0"},
                file_options={"movflags": "+faststart"},
            )
        except NoEncoderError as error:
            raise BadVideoError(str(error)) from error
        self._frame_from = VideoFrame.from_ndarray

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Adds a frame ``(H, W, 3)``, resized if it is of another size.

        Raises:
            BadVideoError: it cannot be encoded.
        """
        height, width = self._size
        frame = self._frame_from(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        try:
            self._file.add(frame, self.count)
        except self._failures as error:
            raise BadVideoError(f"a film of {width}x{height} cannot be encoded: {error}") from error
        self.count += 1

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return self._file.discard()
        if not self.count:
            self._file.discard()
            raise BadVideoError("a film without a frame cannot be encoded")
        try:
            self._file.finish()
        except self._failures as error:
            raise BadVideoError(f"the film cannot be encoded: {error}") from error
