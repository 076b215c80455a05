"""What has arrived of a file so far, and of which version of it."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from sam2fast.downloads.errors import LocalError


@dataclass(frozen=True)
class Version:
    """What a server said about the file that it is sending.

    Args:
        url: where it was asked for.
        etag: its ETag as the server wrote it.
        modified: its Last-Modified as the server wrote it.
        total: its length in bytes; None if it was not said.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """What a server can compare byte for byte: an ETag that is not weak, else the date."""
        if self.etag is not None:
            return None if self.etag.startswith("W/") else self.etag
        return self.modified


class PartFile:
    """``FILE.part`` beside the file, and ``FILE.part.json``, which says what it is a part of.

    The second is written before the first byte of the first, so that a process killed at any time leaves bytes of a
    known version or nothing. What is not known to belong to ``url`` is not gone on with.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._record = target.with_name(f"{target.name}.part.json")
        self.version = self._read(url)

    def _read(self, url: str) -> Version:
        try:
            version = Version(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return Version(url)
        said = (version.etag, version.modified)
        is_sound = all(text is None or isinstance(text, str) for text in said) and _is_length(version.total)
        return version if is_sound and version.url == url else Version(url)

    @property
    def size(self) -> int:
        """Bytes that are there of this version."""
        if not self._record.is_file() or not self.path.is_file():
            return 0
        return self.path.stat().st_size

    @property
    def is_complete(self) -> bool:
        """Whether all announced bytes are there."""
        return self.version.total is not None and self.size == self.version.total

    def range_headers(self, hash_is_known: bool) -> dict[str, str]:
        """Asks for the rest if the file is still the same version, and for all of it otherwise.

        Where nothing tells versions apart the rest is asked for only if a mixture of two would be found out at the end.
        """
        validator, size = self.version.validator, self.size
        if not size or (self.version.total is not None and size >= self.version.total):
            return {}
        if validator is None:
            return {"Range": f"bytes={size}-"} if hash_is_known else {}
        return {"Range": f"bytes={size}-", "If-Range": validator}

    def restart(self, version: Version) -> None:
        """Forgets the bytes, and gets ready for those of another version."""
        self.discard()
        with local_errors(self.target.parent):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._record.with_name(f"{self._record.name}.new")
            temporary.write_text(json.dumps(asdict(version)), encoding="utf-8")
            os.replace(temporary, self._record)
        self.version = version

    def require_room(self) -> None:
        """Checks that the rest of the file fits on the disk.

        Raises:
            LocalError: it does not.
        """
        if self.version.total is None:
            return
        with local_errors(self.target.parent):
            free = shutil.disk_usage(self.target.parent).free
        needed = self.version.total - self.size
        if free < needed:
            raise LocalError(
                f"{needed / 1e6:.0f} MB are needed in {self.target.parent} and {free / 1e6:.0f} MB are free"
            )

    @contextmanager
    def appended(self) -> Iterator[BinaryIO]:
        """The file, open at its end."""
        with local_errors(self.target.parent):
            file = self.path.open("ab")
        try:
            yield file
        finally:
            # What could not be written is tried once more.
            with local_errors(self.target.parent):
                file.close()

    def finish(self) -> None:
        """Puts the file in its place, whole and on the disk; there is never anything else under its name."""
        with local_errors(self.target.parent):
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.path, self.target)
            self._record.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # folders cannot be opened on Windows
            folder = os.open(self.target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Removes what has arrived."""
        self.version = Version(self.version.url)
        with local_errors(self.target.parent):
            self.path.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)


def version_of(url: str, headers: Mapping[str, str], total: int | None) -> Version:
    """The version that an answer's headers describe."""
    return Version(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _is_length(total: object) -> bool:
    return total is None or (type(total) is int and total >= 0)


@contextmanager
def local_errors(folder: Path) -> Iterator[None]:
    """Turns a failure of the file system into :class:`LocalError`."""
    try:
        yield
    except OSError as error:
        raise LocalError(f"cannot write in {folder} ({error.strerror or error})") from error
