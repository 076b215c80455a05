"""Opens what FFmpeg can read: files, addresses on the network, and cameras."""

import errno
import functools
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from sam2fast.video_io.errors import VideoError
from sam2fast.video_io.layout import bytes_missing

# Seconds to wait for a connection, and for the next frame, before a silent sender is given up.
PATIENCE = (20.0, 30.0)
STILL_FORMATS = ("image2", "ico")  # besides all that end in _pipe
STILL_BRANDS = ("avif", "heic", "heix", "mif1")
# Files of these formats are texts that name other files and addresses, or scripts: not what is meant by a video,
# whatever they are called.
INDIRECT_FORMATS = frozenset(("avisynth", "concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "vapoursynth"))
ATTACHED_PICTURE = 0x400  # a cover, which is stored as a stream
MOST_PIXELS = 16384 * 8192  # of a frame, which is decoded whole; a few bytes may ask for any size


@dataclass(frozen=True)
class VideoInput:
    """Something that can be opened as a video.

    Attributes:
        name: what messages call it.
        target: what FFmpeg opens: a path or address, or a file object; or the bytes of a file.
        form: FFmpeg's name of the format, where it cannot be found out.
        options: FFmpeg's options for it.
        is_file: whether it can be opened again, from its beginning.
    """

    name: str
    target: str | bytes | BinaryIO
    form: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    is_file: bool = True

    @staticmethod
    def of_file(file: Any) -> "VideoInput":
        """A file: by path, as bytes, or as a binary file object.

        Raises:
            TypeError: a file object that reads text.
        """
        if isinstance(file, bytes | bytearray | memoryview):
            return VideoInput(f"the video of {len(file)} bytes", bytes(file))
        if isinstance(file, str | Path):
            # An absolute path, because FFmpeg takes what precedes a colon for a protocol.
            return VideoInput(str(file), str(Path(file).absolute()))
        if isinstance(file.read(0), str):
            raise TypeError('the file object reads text; open it with mode "rb"')
        name = getattr(file, "name", None)
        seekable = getattr(file, "seekable", lambda: True)()
        name = name if isinstance(name, str) else f"the video in a {type(file).__name__}"
        return VideoInput(name, file, is_file=seekable)

    @staticmethod
    def of_address(address: str) -> "VideoInput":
        """A video on the network."""
        # Without it, packets that are lost on the way are frames that are damaged.
        options = {"rtsp_flags": "prefer_tcp"} if address.startswith("rtsp") else {}
        return VideoInput(address, address, options=options, is_file=False)

    @staticmethod
    def of_camera(number: int) -> "VideoInput":
        """A camera of this computer.

        Raises:
            VideoError: there is no such camera.
        """
        name = f"camera {number}"
        if number < 0:
            raise VideoError(f"there is no {name}; the first one is 0")
        if platform.system() == "Darwin":
            return VideoInput(name, str(number), "avfoundation", {"framerate": "30"}, is_file=False)
        if platform.system() == "Windows":
            return VideoInput(name, f"video={_windows_camera(number)}", "dshow", is_file=False)
        return VideoInput(f"{name}, /dev/video{number},", f"/dev/video{number}", "v4l2", is_file=False)

    def open(self) -> tuple[InputContainer, VideoStream]:
        """The container, which the caller closes, and the stream to show.

        Raises:
            VideoError: it cannot be opened, or is no video.
        """
        try:
            container = av.open(
                self._openable(),
                "r",
                format=self.form,
                options={**self._limits(), **self.options},
                timeout=None if self.is_file else PATIENCE,
                **_any_titles(),
            )
        except FFmpegError as error:
            raise VideoError(self._refusal(error)) from error
        except ValueError as error:  # an unknown format
            raise VideoError(f"{self.name} cannot be opened: {error}") from error
        try:
            return container, self._video_of(container)
        except VideoError:
            container.close()
            raise

    def bytes_missing(self) -> int | None:
        """How much is cut off the file's end; None if that is not known. To be called when nothing reads it."""
        if not self.is_file:
            return None
        with self._raw() as file:
            return bytes_missing(file)

    def _limits(self) -> dict[str, str]:
        """What whoever made the video has no say in, unless it was asked for by its address."""
        # Decoders too: some are opened to find out about a file.
        size = {"max_pixels": str(MOST_PIXELS)}
        is_address = isinstance(self.target, str) and not self.is_file
        return size if is_address else {**_direct_formats_only(), **size}

    def _openable(self) -> Any:
        if isinstance(self.target, str):
            return self.target
        return _FileObject(self._rewound(self.target))

    def _rewound(self, target: bytes | BinaryIO) -> BinaryIO:
        if isinstance(target, bytes):
            return BytesIO(target)
        if self.is_file:
            target.seek(0)
        return target

    @contextmanager
    def _raw(self) -> Iterator[BinaryIO]:
        if isinstance(self.target, str):
            with open(self.target, "rb") as file:
                yield file
        else:
            yield self._rewound(self.target)

    def _refusal(self, error: FFmpegError) -> str:
        if not self.is_file:
            return f"{self.name} cannot be opened: {reason(error)}"
        if error.errno == errno.EINVAL:  # what a format that is not on the list comes to
            return f"{self.name} cannot be read as a video: lists of files or addresses, and scripts, are not followed"
        return f"{self.name} cannot be read as a video: {reason(error)}{self.note_on_its_end()}"

    def note_on_its_end(self) -> str:
        """The end of a message on a file of which nothing can be read: that it is cut off, if it is."""
        try:
            missing = self.bytes_missing()
        except OSError:
            missing = None
        return f"; the file is cut off, at least {missing} bytes are missing at its end" if missing else ""

    def _video_of(self, container: InputContainer) -> VideoStream:
        stream = _best_stream(container)
        if stream is None:
            kinds = ", ".join(sorted({_kind(other) for other in container.streams})) or "nothing"
            raise VideoError(f"{self.name} holds no video, only {kinds}")
        if stream.codec_context is None:
            end = self.note_on_its_end()
            raise VideoError(f"{self.name} holds video of an unknown kind, which cannot be decoded{end}")
        if container.format.name == "tty":
            raise VideoError(f"{self.name} is text, not a video")
        if _is_still(container):
            raise VideoError(
                f"{self.name} is a single picture ({container.format.name}), not a video; give a folder of pictures, "
                "or a list with one"
            )
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            size = f"{context.width}x{context.height}"
            raise VideoError(f"{self.name} has frames of {size} pixels; at most {MOST_PIXELS:,} are decoded")
        context.options = {**context.options, "max_pixels": str(MOST_PIXELS)}  # a header may lie
        return stream


class _FileObject:
    """A file object for FFmpeg, which a damaged file may send to places that no file has: an error for it alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new place; -1 if there is none."""
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError):
            return -1
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


def _any_titles() -> dict[str, Any]:
    """Titles in other encodings are no reason to refuse a video: PyAV from 19 on takes them by itself."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


@functools.cache
def _direct_formats_only() -> dict[str, str]:
    return {"format_whitelist": ",".join(sorted(av.formats_available - INDIRECT_FORMATS)), "protocol_whitelist": "file"}


def _best_stream(container: InputContainer) -> VideoStream | None:
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if hasattr(container.streams, "best"):  # PyAV 13
        best = container.streams.best("video")
        if isinstance(best, VideoStream) and not _is_cover(best):
            return best
    return streams[0] if streams else None


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", 0)  # an enumeration of one kind or another from PyAV 13 on
    return bool(getattr(disposition, "value", disposition) & ATTACHED_PICTURE)


def _kind(stream: Any) -> str:
    return "a cover picture" if _is_cover(stream) else stream.type


def _is_still(container: InputContainer) -> bool:
    name = container.format.name
    if name in STILL_FORMATS or name.endswith("_pipe"):
        return True
    return container.metadata.get("major_brand", "").strip() in STILL_BRANDS


def reason(error: FFmpegError | None) -> str:
    """What FFmpeg says of an error, in words."""
    if isinstance(error, av.error.ExitError):
        return f"no answer for {PATIENCE[0]:g} seconds or more"
    return (error and error.strerror) or str(error)


def _windows_camera(number: int) -> str:
    devices = getattr(av, "enumerate_input_devices", None)
    if devices is None:
        raise VideoError(f"camera {number} cannot be found by its number with PyAV {av.__version__}; update PyAV")
    cameras = [device.name for device in devices("dshow") if "video" in (device.media_types or ["video"])]
    if number >= len(cameras):
        raise VideoError(f"there is no camera {number}; found: {', '.join(cameras) or 'none'}")
    return cameras[number]
