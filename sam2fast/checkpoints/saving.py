"""``torch.save`` into an open file, with the reason where it fails."""

from typing import IO, Any

import torch


def save_torch(content: Any, file: IO[bytes]) -> None:
    """Writes what ``torch.save`` writes.

    Raises:
        OSError: of the file. Where its disk is full, torch alone speaks of an archive that it could not finish.
    """
    watched: Any = _Watched(file)  # as much of a file as is asked for
    try:
        torch.save(content, watched)
    except RuntimeError as error:
        if watched.failure is not None:
            raise watched.failure from error
        raise


class _Watched:
    """A file that remembers why writing to it failed first."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        """As the file's own."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        """As the file's own."""
        try:
            self._file.flush()
        except OSError as error:
            self.failure = self.failure or error
            raise
