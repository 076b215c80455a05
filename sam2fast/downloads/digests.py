"""Computes digests of files. Digests of large files are cached, so that each large file is read only once."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sam2fast.downloads.catalog import own_cache
from sam2fast.io.atomic import atomic_path
from sam2fast.io.file_records import file_sha256

KEPT_FROM = 1 << 20  # minimum size of files in bytes for caching digests
# Minimum age of files in seconds for caching, since a file may change again within the resolution of its timestamps.
SETTLED_SECONDS = 2.0


def digest_of(path: Path, files: Sequence[Path] | None = None) -> str:
    """Returns the SHA-256 of a file, or of the names and contents of several files.

    Reads all bytes, because uncompressed volumes and weights may differ only in the middle. Digests of at least
    :data:`KEPT_FROM` bytes are cached by path. A cached digest is valid until the size or a timestamp of a file
    changes.

    Args:
        path: File or folder.
        files: Files to read. By default, the file ``path``, or all files directly in the folder ``path``.

    Raises:
        OSError: If a file cannot be read.
    """
    is_folder = path.is_dir()
    if files is None:
        files = sorted(file for file in path.iterdir() if file.is_file()) if is_folder else [path]
    stats = [(os.path.relpath(file, path) if is_folder else file.name, file.stat()) for file in files]
    stamp = _sha256([[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats])
    cached = own_cache() / "digests" / _sha256(os.path.realpath(path))
    is_large = sum(stat.st_size for _, stat in stats) >= KEPT_FROM
    if is_large:
        with suppress(OSError, ValueError, LookupError, TypeError):
            before = json.loads(cached.read_bytes())
            if before["stamp"] == stamp:
                return str(before["sha256"])
    if files == [path]:
        digest = file_sha256(path)
    else:
        digest = _sha256([[name, file_sha256(file)] for (name, _), file in zip(stats, files, strict=True)])
    if is_large and max(max(stat.st_mtime, stat.st_ctime) for _, stat in stats) < time.time() - SETTLED_SECONDS:
        with suppress(OSError):  # the cache may be read-only
            cached.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cached) as partial:
                partial.write_text(json.dumps({"path": str(path), "stamp": stamp, "sha256": digest}), encoding="utf-8")
    return digest


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
