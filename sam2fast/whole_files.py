"""Files that appear whole or not at all, and what goes wrong with them; a leaf that anybody may import."""

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sam2fast.kept_rights import PRIVATE_FOLDER, file_at, hand_on, make_private
from sam2fast.short_names import shortened

# No room on the disk, or none left of what this user may take of it.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
MOST_TEXT = 64 << 20  # bytes of prompts, or of names: half a million prompts, and memory that any machine has
# Seconds without a change until what is half-written is taken for left behind where processes of other machines may be
# at it, the difference of their clocks included.
SECONDS_TO_WRITE = 600.0
MOST_LINKS = 40  # one behind the other, as Linux has it
SHARED = stat.S_ISVTX | stat.S_IWOTH  # of folders where all may make files and remove their own, such as /tmp


def has_no_locks(error: OSError | NotImplementedError) -> bool:
    """Whether filelock failed since the file system locks nothing, as some on networks; older versions of it say so."""
    return isinstance(error, NotImplementedError) or error.errno in WITHOUT_LOCKS


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is moved to ``path`` once it is on the disk; its folder is made.

    Where writing fails, what was at ``path`` stays, and nothing is left behind. A process that is killed leaves a file
    ``.NAME.NUMBER.tmp`` beside it, or beside what a link leads to, with that name. Links, devices and who may read it:
    see :class:`Partial`.

    Raises:
        OSError: it cannot be written; the error names ``path``, or the temporary file of a stream.
    """
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with moved_to(path, _beside(behind_links(path), "tmp")) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def moved_to(path: Path, partial: Path | None = None, in_folder: bool = False) -> Iterator[Path]:
    """A name beside ``path`` to write under; afterwards that is ``path``, and on an error there is nothing of it.

    Args and raises: see :class:`Partial`.
    """
    with errors_named(path):
        writing = Partial(path, partial, in_folder)
        try:
            with errors_named(writing.blamed):
                yield writing.name
            writing.finish()
        finally:
            writing.discard()


class Partial:
    """A file in writing, under a name beside ``path``, for those who cannot use :func:`moved_to`.

    As with ``open``, a symlink stays, and what it leads to is written, which need not be there. A FIFO, a device or
    what this process prints to, such as ``/dev/stdout``, stays too: it is sent what was written, once that is whole and
    until then in the folder for temporary files. A file that is there already keeps its mode, without setuid and the
    like, and as far as this user may its group and owner, too; until it is whole, nobody else may read the new one.
    Unlike with ``open``, other names of it (hard links) keep the old content, and lists of access (ACLs) are lost.

    Args:
        partial: the name, by default ``.NAME.NUMBER.part``; see :func:`shortened` for long ones. A process that is
            killed leaves it.
        in_folder: that name is of a folder, and in it lies the file, for writers that make other files beside theirs.

    Attributes:
        name: to write under, which is not always the one that was given.
        blamed: what an error in writing is about: ``path``, or the temporary file of a stream, whose disk may be full.

    Raises:
        OSError: it cannot be written, such as a disk's device; the error has a name.
        PermissionError: see :func:`behind_links`; for FIFOs, too.
        ValueError: no file can have the name ``path``.
    """

    def __init__(self, path: Path, partial: Path | None = None, in_folder: bool = False) -> None:
        self._folder: Path | None = None
        self._before: os.stat_result | None = None
        self.blamed = path
        with errors_named(path):
            self._target, self._is_stream = behind_links(path), _is_stream(path)
            if self._is_stream:
                if own_output(path) is None:
                    _refuse_planted(self._target)
                self._target = path  # /dev/stdout leads to something that has no path of its own
                self._folder = Path(tempfile.mkdtemp(prefix="sam2fast-"))
                self.name = self.blamed = self._folder / (partial or path).name
                return
            partial = partial or _beside(self._target, "part")
            moves = self._target is not path and partial.parent == path.parent
            self.name = self._target.with_name(partial.name) if moves else partial
            self._before = file_at(self._target)
            if in_folder:
                self.name.mkdir(PRIVATE_FOLDER)
                self._folder, self.name = self.name, self.name / self._target.name
            elif self._before is not None:
                try:
                    make_private(self.name)
                except BaseException:  # such as an interrupt: nobody else removes it
                    self.discard()
                    raise

    def finish(self) -> None:
        """Moves it to ``path``, or sends it there."""
        with errors_named(self._target):
            if self._is_stream:
                _send(self.name, self._target)
                return
            # As it is by now, or was if somebody has removed it.
            before = file_at(self._target) or self._before
            if before is not None:
                hand_on(before, self.name)
            os.replace(self.name, self._target)

    def discard(self) -> None:
        """Leaves nothing behind, unless the file was moved."""
        self.name.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def behind_links(path: Path) -> Path:
    """What ``open`` would make or replace: ``path``, or what it leads to if it is a symlink.

    Raises:
        OSError: it leads in a circle, or where nobody may look.
        PermissionError: in a folder that all may write to somebody else has put a symlink, which may lead anywhere.
        ValueError: no file can have that name.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a null character, and no file can have that name")
    if not os.path.islink(path):
        return path
    with suppress(FileNotFoundError):
        os.stat(str(path))  # circles, and what the system itself does not follow
    link = path
    for _ in range(MOST_LINKS):
        if not os.path.islink(link):
            return Path(os.path.realpath(path))
        _refuse_planted(link)
        link = link.parent / os.readlink(link)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def is_special(path: Path) -> bool:
    """Whether there is something that is neither a file nor a folder: a FIFO, a device, a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # it is not there, or writing will tell what is wrong with it
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def read_limited(path: Path, most: int = MOST_TEXT) -> bytes:
    """What is in a file that somebody has written; also in a FIFO, up to its end, which a device may not have.

    Raises:
        OSError: it cannot be read, or there are more than ``most`` bytes.
    """
    with errors_named(path), path.open("rb") as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"more than {most >> 20} MiB, which nobody has written", str(path))
    return content


def own_number() -> int:
    """For a name that nobody else has: in containers on several machines processes have the same numbers."""
    return int.from_bytes(os.urandom(6), "big")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{shortened(path.name)}.{own_number()}.{ending}")


def _is_stream(path: Path) -> bool:
    """Whether ``path`` is not to be replaced, but written to."""
    if is_special(path) and stat.S_ISBLK(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "a disk, which is not written over", str(path))
    return is_special(path) or own_output(path) is not None


def _refuse_planted(path: Path) -> None:
    """Linux's rule for ``open`` (protected_symlinks, protected_fifos), which does not see links that we follow."""
    folder = os.stat(path.parent)
    if folder.st_mode & SHARED == SHARED and os.lstat(path).st_uid not in (os.geteuid(), folder.st_uid):
        why = "somebody else has put it into a folder that all may write to, and it is not followed"
        raise PermissionError(errno.EACCES, why, str(path))


def own_output(path: Path) -> int | None:
    """The descriptor of this process that prints to ``path``: opened anew, one of the two would overwrite the other."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
    return None


def _send(file: Path, path: Path) -> None:
    own = own_output(path)
    for printed in (sys.stdout, sys.stderr):
        if own is not None and printed is not None:
            printed.flush()  # what was printed before comes before
    target = os.open(path, os.O_WRONLY) if own is None else os.dup(own)
    with open(target, "wb") as stream, file.open("rb") as content:
        shutil.copyfileobj(content, stream)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Gives errors of the file system that do not say which file they are about, such as a full disk, its name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
