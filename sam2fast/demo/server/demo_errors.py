"""Errors that clients see: a sentence, a code for programs, and an HTTP status."""

import errno
from pathlib import Path

from sam2fast.utils.errors import FixableError

INTERNAL = "the server failed; its log says more"


class DemoError(FixableError):
    """A failure whose message is sent to the client; any other exception is reported as an internal error."""

    code = "INTERNAL"
    status = 500


class BadInputError(DemoError):
    """The request is invalid; nothing has changed."""

    code, status = "BAD_INPUT", 400


class NoSessionError(DemoError):
    """The session was closed, has expired, or never existed."""

    code, status = "NO_SESSION", 404

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Cannot find session {shortened(session_id)}: it might have expired; start another one")


class NotFoundError(DemoError):
    """There is no such video, frame or result."""

    code, status = "NOT_FOUND", 404


class NothingToTrackError(DemoError):
    """The session has no object, or an object without a prompt."""

    code, status = "NOTHING_TO_TRACK", 409


class NotAllowedError(DemoError):
    """The server's operator has not allowed this."""

    code, status = "NOT_ALLOWED", 403


class TooManyError(DemoError):
    """More objects or prompts than a session may have."""

    code, status = "TOO_MANY", 409


class TooLargeError(DemoError):
    """More bytes than the server accepts."""

    code, status = "TOO_LARGE", 413


class BadVideoError(DemoError):
    """The file is not a video, or not one that this server accepts."""

    code, status = "BAD_VIDEO", 422


class BadPhotoError(DemoError):
    """The file is not a photograph, or not one that this server accepts."""

    code, status = "BAD_PHOTO", 422


class CancelledError(DemoError):
    """The client has cancelled its request."""

    code, status = "CANCELLED", 409


class BusyError(DemoError):
    """The server is at its limit; the client may try again later."""

    code, status = "BUSY", 503


class DiskFullError(DemoError):
    """The server's disk is full."""

    code, status = "DISK_FULL", 507

    def __init__(self) -> None:
        super().__init__("the disk of the server is full; make room in its data folder, then try again")


def is_disk_full(error: BaseException | None) -> bool:
    """Returns True if an error, or the error that caused it, came from a full disk or an exceeded quota."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def message_without_path(error: BaseException, file: Path) -> str:
    """The error's message with the file's path removed, because clients must not see it."""
    return str(error).replace(str(file), "the file").replace(str(file.parent), "its folder")


def shortened(text: object, limit: int = 80) -> str:
    """What a client sent, quoted and cut to ``limit`` characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= limit else f"{quoted[:limit]}..."
