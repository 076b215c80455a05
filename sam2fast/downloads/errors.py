"""What can go wrong with a download: for good, at one source, or for the moment."""

from collections.abc import Sequence


class DownloadError(OSError):
    """A file could not be had from anywhere. The message has a line for each source, and says what to do instead."""


class SourceError(Exception):
    """One source cannot give the file; another one may."""


class TemporaryError(SourceError):
    """A source that may give the file when it is asked again.

    Args:
        reason: what happened.
        retry_after: seconds that the server asked to wait.
        unreachable: the server was not even reached, which rarely changes within seconds.
    """

    def __init__(self, reason: str, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unreachable = unreachable


class RefusedError(SourceError):
    """The server answered, and will answer the same again.

    Args:
        reason: what happened.
        status: the HTTP status; None where the answer could not be used for another reason.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class DamagedError(SourceError):
    """What arrived is not the file that was wanted."""


class LocalError(SourceError):
    """The file cannot be written here: no room, no permission."""


def not_available(file: str, tried: Sequence[tuple[str, str]], hint: str) -> DownloadError:
    """The error that says what was tried: pairs of a source and its reason."""
    lines = [f"  {source}: {reason}." for source, reason in tried]
    return DownloadError("\n".join([f"{file} could not be downloaded.", *lines, hint]))
