"""Files on their way to the server: written to disk as they come, and refused as soon as they are too much."""

import hashlib
import threading
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any
from uuid import uuid4

from flask import Request, current_app

from sam2fast.demo.server.errors import BadInputError, BadVideoError, BusyError, TooLargeError
from sam2fast.demo.server.library import Library, Video
from sam2fast.demo.server.sessions import SessionStore
from sam2fast.demo.server.settings import MEBIBYTE, ServerSettings
from sam2fast.demo.server.transcode import choose_cut, transcode

FORMATS = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
# What a file of these formats begins with: the kind of its first box, from the fifth byte on, or EBML's number.
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
EBML = b"\x1a\x45\xdf\xa3"
SIGNATURE = 8  # bytes that tell
SECONDS_TO_WAIT = 10.0  # for other uploads to be done with; whoever waits holds a thread
LIMITS = "sam2fast_upload"  # where an app keeps its UploadLimits


class UploadLimits:
    """Where files come to lie, and how large they may be."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes


class IncomingFile:
    """A file that is being received: gone when it is closed.

    Raises:
        TooLargeError: more was written than it may hold.
        BadVideoError: its beginning is that of no video that is accepted.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._file: IO[bytes] = NamedTemporaryFile(dir=limits.folder, prefix="upload-", suffix=".part")  # noqa: SIM115
        self._beginning = b""
        self._size = 0

    @property
    def path(self) -> Path:
        """Where it lies, with all that was written."""
        self._file.flush()
        return Path(self._file.name)

    def write(self, data: bytes) -> int:
        """Adds to the file; see the class for what is refused."""
        self._size += len(data)
        if self._size > self._limits.most_bytes:
            raise TooLargeError(f"the file is larger than {self._limits.most_bytes // MEBIBYTE} MB")
        if len(self._beginning) < SIGNATURE:
            self._beginning += bytes(data[:SIGNATURE])
            if len(self._beginning) >= SIGNATURE and not _is_video(self._beginning):
                raise BadVideoError("the file is none of MP4, QuickTime, Matroska and WebM")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:  # read, seek, tell, close: whoever parses forms wants a file
        return getattr(self._file, name)


def _is_video(beginning: bytes) -> bool:
    return beginning[4:8] in FIRST_BOXES or beginning.startswith(EBML)


class UploadRequest(Request):
    """A request whose files go to disk, one at most; everything else in it is small."""

    _files_begun = 0

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        self._files_begun += 1
        if self._files_begun > 1:
            raise BadInputError("there is more than one file in the request; upload one at a time")
        return IncomingFile(current_app.extensions[LIMITS])  # type: ignore[return-value]


class Uploads:
    """Makes films of uploaded files, one after the other, since that takes a processor for itself."""

    def __init__(self, settings: ServerSettings, library: Library, sessions: SessionStore) -> None:
        self._settings, self._library, self._sessions = settings, library, sessions
        self._turn = threading.Lock()

    def add(self, file: Any, start: float | None, seconds: float | None) -> Video:
        """The upload as a video of the library; the same film is there once, however often it comes.

        Args:
            file: what came with the request, as werkzeug has it.
            start, seconds: which part of it to keep; by default the first, as long as may be.

        Raises:
            BadInputError: no file, or times that are no times.
            BadVideoError: it is no video that can be used.
            BusyError: others have been uploading for too long.
        """
        cut = choose_cut(start, seconds, self._settings.max_seconds, self._settings.fps)
        stream = getattr(file, "stream", None)
        if not isinstance(stream, IncomingFile):
            raise BadInputError("file is no uploaded file; send it as a part of a multipart request")
        if not self._turn.acquire(timeout=SECONDS_TO_WAIT):
            raise BusyError("busy with other uploads; try again in a minute")
        film = self._library.incoming / f"{uuid4()}.mp4"
        try:
            transcode(stream.path, film, cut)
            return self._library.adopt(film, _sha256(film), self._sessions.files_in_use)
        finally:
            self._turn.release()
            film.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(MEBIBYTE):
            digest.update(block)
    return digest.hexdigest()
