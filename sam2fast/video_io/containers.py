"""Opens video files, network addresses and cameras with FFmpeg."""

import errno
import functools
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import av
from av import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from sam2fast.io.file_kinds import TEXT, VIDEO, first_bytes, kind_of
from sam2fast.utils.cores import available_cores
from sam2fast.video_io.video_types import NoFramesError, ToneMapped, VideoError

# Timeouts in seconds for the connection and for the next frame.
TIMEOUTS = (20.0, 30.0)
IMAGE_FORMATS = ("image2", "ico")  # image formats, besides all names that end in _pipe
IMAGE_BRANDS = ("avif", "heic", "heix", "mif1")
# Formats that are not opened, since files of these formats refer to other files and addresses, or are scripts.
INDIRECT_FORMATS = frozenset(("avisynth", "concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "vapoursynth"))
MOST_DECODERS = 16  # FFmpeg's own limit of a decoder's threads
COVER_IMAGE = 0x400  # FFmpeg's disposition flag of a cover image; covers are stored as video streams
MAX_PIXELS = 16384 * 8192  # maximum number of pixels of a frame, since a damaged header can claim any size


@dataclass(frozen=True)
class VideoInput:
    """Describes a video that can be opened: a file, a network address, or a camera.

    Attributes:
        name: Name for messages.
        target: Path, address, file object, or bytes of a file that FFmpeg opens.
        form: FFmpeg's name of the format, if FFmpeg cannot detect it.
        options: FFmpeg's options.
        is_file: True if the video can be opened again from its beginning.
        is_tone_mapped: True if HDR frames are mapped to standard dynamic range.
    """

    name: str
    target: str | bytes | BinaryIO
    form: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    is_file: bool = True
    is_tone_mapped: bool = False

    @staticmethod
    def of_file(file: Any) -> "VideoInput":
        """Describes a file by path, bytes or a binary file object. Raises ``TypeError`` for text file objects."""
        if isinstance(file, ToneMapped):
            return replace(VideoInput.of_file(file.video), is_tone_mapped=True)
        if isinstance(file, bytes | bytearray | memoryview):
            return VideoInput(f"the video of {len(file)} bytes", bytes(file))
        if isinstance(file, str | Path):
            # An absolute path, because FFmpeg reads text before a colon as a protocol.
            return VideoInput(str(file), str(Path(file).absolute()))
        if isinstance(file.read(0), str):
            raise TypeError('the file object reads text; open it with mode "rb"')
        name = getattr(file, "name", None)
        name = name if isinstance(name, str) else f"the video in a {type(file).__name__}"
        return VideoInput(name, file, is_file=getattr(file, "seekable", lambda: True)())

    @staticmethod
    def of_address(address: str) -> "VideoInput":
        """Describes a video at a network address."""
        # Over UDP, lost packets would damage frames.
        options = {"rtsp_flags": "prefer_tcp"} if address.startswith("rtsp") else {}
        return VideoInput(address, address, options=options, is_file=False)

    @staticmethod
    def of_camera(number: int) -> "VideoInput":
        """Describes a camera of this computer. Raises ``VideoError`` if no camera has this number."""
        name = f"camera {number}"
        if number < 0:
            raise VideoError(f"there is no {name}; the first one is 0")
        if platform.system() == "Darwin":
            return VideoInput(name, str(number), "avfoundation", {"framerate": "30"}, is_file=False)
        if platform.system() == "Windows":
            return VideoInput(name, f"video={_windows_camera(number)}", "dshow", is_file=False)
        return VideoInput(f"{name}, /dev/video{number},", f"/dev/video{number}", "v4l2", is_file=False)

    def open(self) -> tuple[InputContainer, VideoStream]:
        """Opens the video. Returns the container and the video stream. The caller closes the container.

        Raises:
            VideoError: If the input cannot be opened, or is not a video.
        """
        if other := self._other_kind():
            raise VideoError(f"{self.name} cannot be read as a video: it is {other}")
        # Metadata may have any encoding. From PyAV 19 on, invalid metadata are replaced by default.
        lenient: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        try:
            container = av.open(
                self._openable(),
                "r",
                format=self.form,
                options={**self._limits(), **self.options},
                timeout=None if self.is_file else TIMEOUTS,
                **lenient,
            )
        except FFmpegError as error:
            raise VideoError(self._refusal(error)) from error
        except ValueError as error:  # the format is unknown
            raise VideoError(f"{self.name} cannot be opened: {error}") from error
        try:
            stream = self._video_of(container)
        except VideoError:
            container.close()
            raise
        stream.codec_context.thread_count = min(available_cores(), MOST_DECODERS)
        return container, stream

    def _other_kind(self) -> str:
        """Returns what a file is if its first bytes are another program's, since FFmpeg finds an image in a PDF."""
        # A pipe cannot be rewound. For text, such as a playlist, FFmpeg's refusal has a reason.
        if not self.is_file or (isinstance(self.target, str) and not os.path.isfile(self.target)):
            return ""
        with suppress(OSError):  # FFmpeg raises the same error
            kind = kind_of(first_bytes(self.target))
            return "".join(kind) if kind and kind.name not in (VIDEO, TEXT) else ""
        return ""

    def _limits(self) -> dict[str, str]:
        """Returns options that protect against malicious files. A network address may use any format and protocol."""
        # FFmpeg also passes ``max_pixels`` to the decoders that probe a file.
        size = {"max_pixels": str(MAX_PIXELS)}
        is_address = isinstance(self.target, str) and not self.is_file
        return size if is_address else {**_direct_formats_only(), **size}

    def _openable(self) -> Any:
        if isinstance(self.target, str):
            return self.target
        if isinstance(self.target, bytes):
            return _FileObject(BytesIO(self.target))
        if self.is_file:
            self.target.seek(0)
        return _FileObject(self.target)

    def _refusal(self, error: FFmpegError) -> str:
        if not self.is_file:
            return f"{self.name} cannot be opened: {reason(error, is_opening=True)}"
        if error.errno == errno.EINVAL:  # the format is not in the whitelist
            return f"{self.name} cannot be read as a video: lists of files or addresses, and scripts, are not followed"
        return f"{self.name} cannot be read as a video: {reason(error)}; it is no video, or incomplete"

    def _video_of(self, container: InputContainer) -> VideoStream:
        stream = _best_stream(container)
        if stream is None:
            types = ", ".join(sorted({"a cover image" if _is_cover(x) else x.type for x in container.streams}))
            raise NoFramesError(f"{self.name} " + (f"holds no video, only {types}" if types else "has no frames"))
        if stream.codec_context is None:
            raise VideoError(f"{self.name} holds video of an unknown codec, which cannot be decoded")
        name, brand = container.format.name, container.metadata.get("major_brand", "").strip()
        if name == "tty":
            raise VideoError(f"{self.name} is text, not a video")
        if name in IMAGE_FORMATS or name.endswith("_pipe") or brand in IMAGE_BRANDS:
            raise VideoError(f"{self.name} is a single image ({name}), not a video; pass a folder or list of images")
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            size = f"{context.width}x{context.height}"
            raise VideoError(f"{self.name} has frames of {size} pixels; at most {MAX_PIXELS:,} are decoded")
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}  # the header may be wrong
        return stream


class _FileObject:
    """File object for FFmpeg. Seeks to invalid positions, as in damaged files, do not raise."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Returns the new position, or -1 if the position is invalid."""
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError):
            return -1
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


@functools.cache
def _direct_formats_only() -> dict[str, str]:
    return {"format_whitelist": ",".join(sorted(av.formats_available - INDIRECT_FORMATS)), "protocol_whitelist": "file"}


def _best_stream(container: InputContainer) -> VideoStream | None:
    best = container.streams.best("video") if hasattr(container.streams, "best") else None  # PyAV 13
    if isinstance(best, VideoStream) and not _is_cover(best):
        return best
    return next((stream for stream in container.streams.video if not _is_cover(stream)), None)


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", 0)  # FFmpeg's flags; an enum since PyAV 13
    return bool(getattr(disposition, "value", disposition) & COVER_IMAGE)


def reason(error: FFmpegError | None, is_opening: bool = False) -> str:
    """Returns FFmpeg's message of an error while opening or reading."""
    if isinstance(error, av.error.ExitError):
        return f"no answer for {TIMEOUTS[0 if is_opening else 1]:g} seconds or more"
    return (error and error.strerror) or str(error)


def codec_name(context: CodecContext) -> str:
    """Returns FFmpeg's name of a codec, independent of the selected decoder."""
    return getattr(context.codec, "canonical_name", context.name)


def _windows_camera(number: int) -> str:
    devices = getattr(av, "enumerate_input_devices", None)
    if devices is None:
        raise VideoError(f"camera {number} cannot be found by its number with PyAV {av.__version__}; update PyAV")
    cameras = [device.name for device in devices("dshow") if "video" in (device.media_types or ["video"])]
    if number >= len(cameras):
        raise VideoError(f"there is no camera {number}; found: {', '.join(cameras) or 'none'}")
    return cameras[number]
