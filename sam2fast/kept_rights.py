"""Who may read a file that takes the place of another: nobody else than before; a leaf that anybody may import."""

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
RIGHTS = 0o777  # of a mode; what is beyond them, such as setuid, is not handed on


def file_at(path: Path) -> os.stat_result | None:
    """What is known of the file at ``path``; None if there is none, or something else.

    Raises:
        OSError: nobody can tell, and no file can be made there: its name is too long, say.
    """
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def make_private(path: Path) -> None:
    """Makes an empty file that nobody else may read. What a killed process has left under that name is removed.

    Raises:
        OSError: it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        made = os.open(path, flags, PRIVATE_FILE)
    except FileExistsError:
        path.unlink()
        made = os.open(path, flags, PRIVATE_FILE)
    os.close(made)


def hand_on(before: os.stat_result, path: Path) -> None:
    """Gives the file or folder at ``path`` the group, the mode and the owner of what it is to replace.

    Only root can give files away, and only to their own groups can others. Where the group is another than before, it
    and all others may do what both were allowed.

    Raises:
        OSError: its mode cannot be changed.
    """
    if os.chmod not in os.supports_fd:  # Windows, where a mode says little
        return
    # By its descriptor: where others may write to the folder, they may put a link in its place.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if found.st_gid != before.st_gid:
            with suppress(OSError):
                os.chown(descriptor, -1, before.st_gid)
            found = os.fstat(descriptor)
        mode = before.st_mode & RIGHTS
        if found.st_gid != before.st_gid:
            both = mode >> 3 & mode & 0o7
            mode = mode & 0o700 | both << 3 | both
        if found.st_mode & RIGHTS != mode:  # some file systems have one mode for all, and refuse to change it
            os.chmod(descriptor, stat.S_IMODE(found.st_mode) & ~RIGHTS | mode)
        if found.st_uid != before.st_uid:
            with suppress(OSError):
                os.chown(descriptor, before.st_uid, -1)
    finally:
        os.close(descriptor)
