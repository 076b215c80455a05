"""Films as the demo serves them: H.264 in MP4 that any browser plays and can enter at nearly any frame."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.errors import BadVideoError
from sam2fast.video_io.h264 import encoder_options, find_encoder, label_colours
from sam2fast.whole_files import Partial

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
        import av
        from av.error import FFmpegError
        from av.video.stream import VideoStream

        self.count = 0
        self._size = max(2, height - height % 2), max(2, width - width % 2)
        name = find_encoder()
        if name is None:
            raise BadVideoError("this installation of PyAV has no encoder for H.264")
        self._failures = (FFmpegError, ValueError)
        with ExitStack() as opened:
            self._file = Partial(path)
            opened.callback(self._file.discard)
            self._container = av.open(
                str(self._file.name.absolute()), "w", format="mp4", options={"movflags": "+faststart"}
            )
            opened.callback(self._container.close)
            # Without B-frames the first frame's time is 0 and needs no edit list, which players treat differently.
            stream = self._container.add_stream(name, rate=rate, options={**encoder_options(name, CRF), "bf": "0"})
            opened.pop_all()
        assert isinstance(stream, VideoStream)
        self._stream = stream
        stream.height, stream.width = self._size
        stream.pix_fmt, stream.gop_size = "yuv420p", KEYFRAME_DISTANCE
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.thread_count = 1  # the bytes depend on it, and the model needs the other cores
        label_colours(stream)
        self._unit = 1 / rate
        self._frame_from = av.VideoFrame.from_ndarray

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Adds a frame ``(H, W, 3)``, resized if it is of another size.

        Raises:
            BadVideoError: it cannot be encoded.
        """
        height, width = self._size
        frame = self._frame_from(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        frame.pts, frame.time_base = self.count, self._unit
        self.count += 1
        try:
            self._container.mux(self._stream.encode(frame))
        except self._failures as error:
            raise BadVideoError(f"a film of {width}x{height} cannot be encoded: {error}") from error

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.finish()
        finally:
            try:
                with suppress(*self._failures):  # such as a disk that is full: what is closed here nobody wants
                    self._container.close()
            finally:
                self._file.discard()

    def _finish(self) -> None:
        if not self.count:
            raise BadVideoError("a film without a frame cannot be encoded")
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except self._failures as error:
            raise BadVideoError(f"the film cannot be encoded: {error}") from error
