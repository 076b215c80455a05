"""Brings one file from one address to its place, or nothing."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sam2fast.downloads.checks import check_file
from sam2fast.downloads.connection import Response, opened, split_login
from sam2fast.downloads.errors import DamagedError, RefusedError, TemporaryError
from sam2fast.downloads.part_file import PartFile, Version, local_errors, version_of
from sam2fast.downloads.progress import Progress
from sam2fast.downloads.retries import Failures, Policy

_READ = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRIES = 2  # a file that arrives and turns out to be damaged is fetched once more


@dataclass(frozen=True)
class Remote:
    """A file somewhere else.

    Args:
        name: what it is called, for the user and for the choice of checks.
        url: its address.
        size: its length in bytes, where it is known beforehand.
        digest: its SHA-256, or git's SHA-1, in hexadecimal digits, where it is known beforehand.
        headers: what to send along; ``Authorization`` stays with the first host.
    """

    name: str
    url: str
    size: int | None = None
    digest: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def transfer(remote: Remote, part: PartFile, policy: Policy, progress: Progress) -> None:
    """Fetches the file, checks it and puts it in its place, which nobody else may be doing at the same time.

    What arrived before an interruption stays beside the place and is gone on with next time, if it still belongs to
    the same version of the file.

    Raises:
        SourceError: the file cannot be had from there, is damaged, or cannot be written here.
    """
    for tries_left in reversed(range(_TRIES)):
        _complete(remote, part, policy, progress)
        try:
            with local_errors(part.target.parent):
                check_file(part.path, remote.name, remote.size, remote.digest)
        except DamagedError as error:
            part.discard()
            if not tries_left:
                raise RefusedError(f"what arrives {error}") from error
            progress.note(f"{remote.name}: what arrived {error}; fetching it once more")
        else:
            part.finish()
            return


def _complete(remote: Remote, part: PartFile, policy: Policy, progress: Progress) -> None:
    """Asks until all bytes are there."""
    failures = Failures(split_login(remote.url)[0], policy)
    furthest = part.size
    try:
        while not part.is_complete:
            try:
                _receive(remote, part, policy, progress)
                return
            except TemporaryError as error:
                progressed = part.size >= furthest + policy.progress
                if progressed:
                    furthest = part.size
                failures.wait(error, progressed)
    finally:
        progress.close()


def _receive(remote: Remote, part: PartFile, policy: Policy, progress: Progress) -> None:
    """Asks once, for the rest or the whole, and writes what comes."""
    wanted = part.range_headers(hash_is_known=remote.digest is not None)
    try:
        with opened(remote.url, policy, {**remote.headers, **wanted}) as response:
            _accept(response, remote, part, asked_for_rest=bool(wanted))
            part.require_room()
            progress.start(remote.name, part.size, part.version.total)
            _write(response, part, policy, progress)
    except RefusedError as error:
        if error.status != 416 or not wanted:
            raise
        part.discard()
        raise TemporaryError("has no such part of the file any more") from error
    total = part.version.total
    if total is not None and part.size < total:
        raise TemporaryError(f"the connection ended after {part.size} of {total} bytes")


def _accept(response: Response, remote: Remote, part: PartFile, asked_for_rest: bool) -> None:
    """Decides whether the answer goes on with the part or begins anew."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"sends the file compressed ({headers['Content-Encoding']}), which was not asked for")
    if response.status == 206:
        if not (asked_for_rest and _continues(headers, part)):
            part.discard()
            raise TemporaryError("sent another part of the file than it was asked for")
    elif response.status == 200:
        length = headers.get("Content-Length", "")
        part.restart(version_of(remote.url, headers, int(length) if length.isdecimal() else remote.size))
    else:
        raise RefusedError(f"answers {response.status}", response.status)
    total = part.version.total
    if remote.size is not None and total is not None and total != remote.size:
        part.discard()
        raise RefusedError(f"announces {total} bytes instead of {remote.size}")


def _continues(headers: Mapping[str, str], part: PartFile) -> bool:
    """Whether a partial answer begins where the part ends, and belongs to the same version."""
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != part.size:
        return False
    known: Version = part.version
    same_length = known.total is None or found[3] in ("*", str(known.total))
    return same_length and headers.get("ETag", known.etag) == known.etag


def _write(response: Response, part: PartFile, policy: Policy, progress: Progress) -> None:
    since, arrived = time.monotonic(), 0
    with part.appended() as file:
        while data := response.read(_READ):
            with local_errors(part.target.parent):
                file.write(data)
                file.flush()  # so that it outlives the process, and a full disk is noticed here
            progress.advance(len(data))
            arrived += len(data)
            spent = time.monotonic() - since
            if spent >= policy.stall_timeout:
                if arrived < policy.least_speed * spent:
                    raise TemporaryError(f"sent only {arrived} bytes in {spent:.0f} s")
                since, arrived = time.monotonic(), 0
