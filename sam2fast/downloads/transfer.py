"""Downloads files over HTTP: resumes partial files, checks the content, and uses one process at a time."""

import http.client
import os
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import locked
from sam2fast.io.file_kinds import first_bytes, kind_of
from sam2fast.io.file_records import file_sha256
from sam2fast.utils.errors import FixableError

ANSWER_TIMEOUT = 5.0  # seconds until a server answers, including name lookup, connection, TLS and headers
TIMEOUT = 30.0  # maximum seconds without a received byte
FAILURES = 3  # maximum number of successive failures without new bytes
TEMPORARY = (408, 416, 429, 500, 502, 503, 504)  # HTTP statuses after which the request is repeated
_BLOCK = 1 << 18


class DownloadError(FixableError, OSError):
    """Raised if a file cannot be downloaded. The message has one line.

    Attributes:
        reason: Message without advice. Set only for official models.
    """

    reason = ""


class DamagedError(DownloadError):
    """Raised if the downloaded file is not the expected file."""


def install(target: Path, make: Callable[[Path], object], keep: Callable[[Path], bool], quiet: bool) -> Path:
    """Creates a file in one process at a time. Other processes wait for the file and use it.

    Args:
        target: File to create. ``NAME.part`` is renamed to the target, so that the target is never incomplete.
        make: Function that writes the file to a path. The path may contain a partial file of an interrupted process.
        keep: Function that returns True if an existing target, for example of another process, can be used.
        quiet: If True, prints no message while waiting.

    Raises:
        DownloadError: If ``make`` raises the error, or the file cannot be written.
    """

    def note_waiting() -> None:
        if not quiet:
            print(f"another process is downloading {target.name}; waiting for it", file=sys.stderr, flush=True)

    part = target.with_name(f"{target.name}.part")
    with _writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target, note_waiting):
            if not (target.is_file() and keep(target)):
                make(part)
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(part, target)
    return target


def fetch(urls: list[str], part: Path, sha256: str | None, quiet: bool) -> None:
    """Downloads a checkpoint from the first URL that has the file. Resumes a partial file.

    Args:
        urls: http:// or https:// URLs, tried in this order.
        part: File to write. After an interruption, the partial file is kept.
        sha256: Expected hash. If None, the checksums inside the checkpoint are checked.
        quiet: If True, shows no progress.

    Raises:
        DownloadError: If no URL has the file, or the file cannot be written.
    """
    reasons = []
    for url in urls:
        try:
            _fetch(url, part, quiet)
            check_file(part, sha256)
            return
        except DamagedError as error:
            part.unlink()
            reasons.append(f"{url}: {error}")
        except DownloadError as error:
            reasons.append(f"{url.rpartition('@')[2]}: {error}")  # omits a password
    raise DownloadError("; ".join(reasons))


def check_file(path: Path, sha256: str | None = None) -> None:
    """Checks the hash of a file, or, without ``sha256``, the checksums that ``torch.save`` wrote into the file.

    Raises:
        DamagedError: If the hash or a checksum differs, or the file is another program's, such as a web page.
    """
    head = first_bytes(path)
    if not head.startswith(b"PK") and (kind := kind_of(head)):
        raise DamagedError(f"the downloaded file is {kind.name}, not a checkpoint")
    if sha256 is not None:
        if (actual := file_sha256(path)) != sha256:
            raise DamagedError(f"the SHA-256 of the downloaded file is {actual}; expected {sha256}")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            is_sound = archive.testzip() is None and any(name.endswith("data.pkl") for name in archive.namelist())
    except Exception as error:  # for damaged archives, zipfile raises many types of errors
        raise DamagedError(f"the downloaded file is not a checkpoint, or is damaged ({error})") from error
    if not is_sound:
        raise DamagedError("the downloaded file is not a checkpoint, or is damaged (a wrong checksum, or no data.pkl)")


def _fetch(url: str, part: Path, quiet: bool) -> None:
    """Requests a URL until the file is complete, or until :data:`FAILURES` successive requests fail."""
    if not url.startswith(("http://", "https://")) or "@" in url.split("/")[2]:
        raise DownloadError("expected an http:// or https:// address without a user and a password")
    failures = 0
    while failures < FAILURES:
        before = _size(part)
        try:
            _receive(url, part, quiet)
            return
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{before}":
                return  # the file is complete: a process was interrupted before renaming
            if error.code == 416:
                part.unlink(missing_ok=True)  # the partial file belongs to another version
            reason = f"HTTP status {error.code} {error.reason}"
            if error.code not in TEMPORARY:
                raise DownloadError(reason) from error
        except urllib.error.URLError as error:
            raise DownloadError(f"no connection ({error.reason})") from error
        except (ValueError, http.client.InvalidURL) as error:
            raise DownloadError(f"not a usable address ({error})") from error
        except (OSError, http.client.HTTPException) as error:
            reason = f"the connection broke ({error or type(error).__name__})"
        failures = 1 if _size(part) > before else failures + 1
        if failures < FAILURES:
            time.sleep(2.0**failures)
    raise DownloadError(f"{reason}, {FAILURES} times in a row")


def _receive(url: str, part: Path, quiet: bool) -> None:
    """Requests the rest of the file once, and appends the received bytes to ``part``."""
    from tqdm import tqdm

    start = _size(part)
    headers = {"User-Agent": "sam2fast", **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  the scheme is checked above
    with _answer(request) as response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"redirects from https to {response.url}")
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise http.client.HTTPException("the server sent another part of the file")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        with _writing(part.parent):
            if total is not None and shutil.disk_usage(part.parent).free < total - start:
                raise DownloadError(f"{part.parent} has no room for {(total - start) / 1e6:.1f} MB")
            file = part.open("ab" if start else "wb", buffering=0)
        bar = tqdm(
            desc=part.stem,
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=quiet or sys.stderr is None,  # sys.stderr is None without a console
            mininterval=0.1 if sys.stderr and sys.stderr.isatty() else 5.0,
        )
        with file, bar:
            while block := response.read1(_BLOCK):
                bar.update(len(block))
                with _writing(part.parent):
                    while block:
                        block = block[file.write(block) :]
    if total is not None and (size := _size(part)) != total:
        raise http.client.HTTPException(f"{size} of {total} bytes arrived")


def _answer(request: urllib.request.Request) -> Any:
    """Returns the response to a request, with one timeout for all steps until the response.

    The timeout of urllib applies to each address and step separately, and excludes the name lookup.
    """
    response: Future[Any] = Future()

    def send() -> None:
        try:
            response.set_result(urllib.request.urlopen(request, timeout=TIMEOUT))  # noqa: S310
        except Exception as error:
            response.set_exception(error)

    threading.Thread(target=send, daemon=True).start()
    if not wait([response], ANSWER_TIMEOUT).done:
        raise DownloadError(f"no connection (no answer within {ANSWER_TIMEOUT:g} s)")
    return response.result()


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Context manager that converts errors of the file system to :class:`DownloadError`."""
    try:
        yield
    except DownloadError:
        raise
    except (OSError, NotImplementedError) as error:  # NotImplementedError: the file system does not support locks
        raise DownloadError(f"cannot write in {folder}: {getattr(error, 'strerror', None) or error}") from error
