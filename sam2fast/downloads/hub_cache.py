"""The cache folder of huggingface_hub, read and written as that package does, so that both find the same files.

A file is stored once, named by its ETag, and every version of the repository points to it::

    models--OWNER--NAME/blobs/ETAG
    models--OWNER--NAME/snapshots/COMMIT/FILE -> ../../blobs/ETAG
    models--OWNER--NAME/refs/main             the commit that "main" was at
    .locks/models--OWNER--NAME/ETAG.lock
"""

import contextlib
import os
import re
import uuid
from pathlib import Path

REVISION = "main"
_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)  # of an ETag or commit, which becomes part of a path


def is_safe_name(text: str) -> bool:
    """Whether what a server or a file said can be used as the name of a file."""
    return _NAME.fullmatch(text) is not None


def repository_folder(cache: Path, repo: str) -> Path:
    """The folder of a model ``owner/name``."""
    return cache / ("models--" + repo.replace("/", "--"))


def cached_snapshot(cache: Path, repo: str) -> Path | None:
    """The folder with the files of the version that "main" was at when it was last asked for; None if there is none."""
    folder = repository_folder(cache, repo)
    commit = _content(folder / "refs" / REVISION)
    return folder / "snapshots" / commit if commit is not None and is_safe_name(commit) else None


def cached_file(cache: Path, repo: str, file: str) -> Path | None:
    """Where the file lies in the cache; None if it does not."""
    snapshot = cached_snapshot(cache, repo)
    return snapshot / file if snapshot is not None and (snapshot / file).is_file() else None


def lock_path(cache: Path, repo: str, etag: str) -> Path:
    """The file that whoever downloads this blob locks, huggingface_hub included."""
    return cache / ".locks" / repository_folder(cache, repo).name / f"{etag}.lock"


def blob_path(cache: Path, repo: str, etag: str) -> Path:
    """Where the content with this ETag is stored."""
    return repository_folder(cache, repo) / "blobs" / etag


def snapshot_path(cache: Path, repo: str, commit: str, file: str) -> Path:
    """Where the file of this version is found."""
    return repository_folder(cache, repo) / "snapshots" / commit / file


def point(blob: Path, pointer: Path) -> None:
    """Lets a version's file point to its blob, which is there; whoever calls this holds the blob's lock."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    link = pointer.with_name(f".{pointer.name}.link")
    link.unlink(missing_ok=True)  # of a process that was killed
    try:
        os.symlink(os.path.relpath(blob, pointer.parent), link)
        os.replace(link, pointer)
    except OSError:
        # No symbolic links here: huggingface_hub, too, then keeps the file in the place of the link.
        with contextlib.suppress(OSError):
            link.unlink()
        os.replace(blob, pointer)


def refer(cache: Path, repo: str, commit: str) -> None:
    """Records that "main" is at this commit."""
    ref = repository_folder(cache, repo) / "refs" / REVISION
    ref.parent.mkdir(parents=True, exist_ok=True)
    if _content(ref) == commit:
        return
    # Not among the refs, where a process that is killed would leave one more.
    temporary = ref.parent.with_name(f".{ref.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(commit, encoding="utf-8")
        os.replace(temporary, ref)
    finally:
        temporary.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
