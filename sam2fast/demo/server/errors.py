"""What a client is told when something cannot be done: one sentence, a code for programs, an HTTP status."""

from pathlib import Path


class DemoError(Exception):
    """A failure that the client may read about; any other exception is told as an internal error."""

    code = "INTERNAL"
    status = 500


class BadInputError(DemoError):
    """Something that was sent has no meaning; nothing has changed."""

    code, status = "BAD_INPUT", 400


class NoSessionError(DemoError):
    """The session was closed, has expired, or never was."""

    code, status = "NO_SESSION", 404

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Cannot find session {shown(session_id)}: it might have expired; start another one")


class NotFoundError(DemoError):
    """There is no such video, frame or result."""

    code, status = "NOT_FOUND", 404


class NothingToTrackError(DemoError):
    """The session has no object, or one without a prompt."""

    code, status = "NOTHING_TO_TRACK", 409


class TooManyError(DemoError):
    """More objects or prompts than a session may have."""

    code, status = "TOO_MANY", 409


class TooLargeError(DemoError):
    """More bytes than the server takes."""

    code, status = "TOO_LARGE", 413


class BadVideoError(DemoError):
    """A file that is no video, or none that this server takes."""

    code, status = "BAD_VIDEO", 422


class BusyError(DemoError):
    """No more of it at the moment; later perhaps."""

    code, status = "BUSY", 503


def told(error: BaseException, file: Path) -> str:
    """What went wrong with a file, without where it lies on this machine."""
    return str(error).replace(str(file), "the file").replace(str(file.parent), "its folder")


def shown(text: object, limit: int = 80) -> str:
    """What a client sent, quoted and cut to a readable length."""
    quoted = repr(text)
    return quoted if len(quoted) <= limit else f"{quoted[:limit]}..."
