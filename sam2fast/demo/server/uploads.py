"""Uploads: files are written to disk as they arrive, and refused as soon as they are too large."""

import threading
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, NamedTuple
from uuid import uuid4

from flask import Request, current_app

from sam2fast.demo.server.demo_errors import (
    BadInputError,
    BadVideoError,
    BusyError,
    DiskFullError,
    TooLargeError,
    is_disk_full,
)
from sam2fast.demo.server.jobs import Report, ignore_progress
from sam2fast.demo.server.library import SUFFIX, Library, LibraryVideo, UploadSource
from sam2fast.demo.server.photos import BRANDS, SIGNATURES, store_photo
from sam2fast.demo.server.sessions import SessionStore
from sam2fast.demo.server.settings import MEBIBYTE, ServerSettings
from sam2fast.demo.server.transcode import choose_cut, transcode
from sam2fast.io.file_records import file_sha256

FORMATS = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
# Signatures of these formats: the type of the first box, from the fifth byte on, or EBML's magic number.
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
EBML = b"\x1a\x45\xdf\xa3"
SIGNATURE_BYTES = 12
SECONDS_TO_WAIT = 10.0  # for other uploads; a waiting request holds a thread
LIMITS = "sam2fast_upload"  # key of the UploadLimits in ``app.extensions``


class UploadLimits(NamedTuple):
    """The folder of incoming files, and their largest size."""

    folder: Path
    max_bytes: int


class IncomingFile:
    """A temporary file for an upload; it is deleted when it is closed.

    Attributes:
        is_photo: whether it begins as a photograph does; otherwise it begins as a video.

    Raises:
        TooLargeError: If more bytes were written than allowed.
        BadVideoError: If the file has no signature of an accepted format.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._file: IO[bytes] = NamedTemporaryFile(dir=limits.folder, prefix="upload-", suffix=".part")  # noqa: SIM115
        self._beginning = b""
        self._size = 0
        self.is_photo = False

    @property
    def path(self) -> Path:
        """The path of the flushed file."""
        self._file.flush()
        return Path(self._file.name)

    def write(self, data: bytes) -> int:
        """Appends data; the class documents the errors."""
        self._size += len(data)
        if self._size > self._limits.max_bytes:
            raise TooLargeError(f"the file is larger than {self._limits.max_bytes // MEBIBYTE} MB")
        if len(self._beginning) < SIGNATURE_BYTES:
            self._beginning += bytes(data[:SIGNATURE_BYTES])
            self.is_photo = self._beginning.startswith(SIGNATURES) or self._beginning[8:12] in BRANDS
            is_video = self._beginning[4:8] in FIRST_BOXES or self._beginning.startswith(EBML)
            if len(self._beginning) >= SIGNATURE_BYTES and not (self.is_photo or is_video):
                raise BadVideoError(
                    "the file is not MP4, QuickTime, Matroska or WebM, and not JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC"
                )
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:  # read, seek, tell, close: form parsers expect a file
        return getattr(self._file, name)


class UploadRequest(Request):
    """A request with at most one file, which is written to disk; its other fields are small."""

    _file_count = 0

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        self._file_count += 1
        if self._file_count > 1:
            raise BadInputError("there is more than one file in the request; upload one at a time")
        return IncomingFile(current_app.extensions[LIMITS])  # type: ignore[return-value]


class Uploads:
    """Transcodes uploaded files one after the other, because each keeps one CPU core busy."""

    def __init__(self, settings: ServerSettings, library: Library, sessions: SessionStore) -> None:
        self._settings, self._library, self._sessions = settings, library, sessions
        self._transcoding = threading.Lock()

    def add(
        self, file: Any, start: float | None, seconds: float | None, report: Report = ignore_progress
    ) -> LibraryVideo:
        """Adds a video or a photograph to the library. A repeated upload is stored only once.

        Args:
            file: File of the request, from werkzeug.
            start, seconds: Part of a video to keep. Defaults to the longest allowed part from the beginning.
            report: Function that receives the share that is decoded or transcoded.

        Raises:
            BadInputError: If there is no file, or a time is invalid.
            BadVideoError, BadPhotoError: If the file cannot be used.
            BusyError: If other uploads took too long.
            DiskFullError: If the file does not fit on the disk.
            CancelledError: If ``report`` raises it.
        """
        cut = choose_cut(start, seconds, self._settings.max_seconds, self._settings.fps)
        stream = getattr(file, "stream", None)
        if not isinstance(stream, IncomingFile):
            raise BadInputError("file is not an uploaded file; send it as a part of a multipart request")
        if not self._transcoding.acquire(timeout=SECONDS_TO_WAIT):
            raise BusyError("busy with other uploads; try again in a minute")
        finished = self._library.incoming / str(uuid4())
        try:
            source = None
            if stream.is_photo:
                finished = store_photo(stream.path, finished, report)
            else:
                finished = finished.with_suffix(SUFFIX)
                source = UploadSource(stream.path, transcode(stream.path, finished, cut, report))
            return self._library.add_upload(finished, file_sha256(finished), source, self._sessions.files_in_use)
        except Exception as error:
            if is_disk_full(error):
                raise DiskFullError from error
            raise
        finally:
            self._transcoding.release()
            finished.unlink(missing_ok=True)
