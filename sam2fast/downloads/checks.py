"""Whether a file that arrived is the one that was wanted, told without loading it."""

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path

from sam2fast.downloads.errors import DamagedError

CHECKPOINTS = (".pt", ".pth", ".safetensors")
_BLOCK = 1 << 20
_LONGEST_HEADER = 100_000_000  # of a safetensors file, as its own reader allows
_OLD_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # torch.save before version 1.6


def file_digest(path: Path, digest: str) -> str:
    """The file's hash of the kind that ``digest``, in hexadecimal digits, is: SHA-256, or git's SHA-1 of a blob."""
    if len(digest) == 40:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def is_sha256(text: str) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal digits."""
    return _is_hex(text, 64)


def is_digest(text: str) -> bool:
    """Whether this is a hash that :func:`file_digest` can compare."""
    return _is_hex(text, 64) or _is_hex(text, 40)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


def check_file(path: Path, name: str, size: int | None, digest: str | None) -> None:
    """Compares size and hash where they are known, and reads a checkpoint's table of contents.

    Without a hash the checksums inside a ``.pt`` file are compared, which finds a single changed byte as well.

    Args:
        path: the file, under whatever name.
        name: what the file will be called; only checkpoints have a table of contents.

    Raises:
        DamagedError: it is another file, or damaged.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise DamagedError(f"has {found} bytes instead of {size}")
    if digest is not None and (actual := file_digest(path, digest)) != digest:
        raise DamagedError(f"has another hash than was announced: {actual} instead of {digest}")
    if name.endswith(CHECKPOINTS):
        _check_checkpoint(path, name, thorough=digest is None)


def _check_checkpoint(path: Path, name: str, thorough: bool) -> None:
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<":
        raise DamagedError("is a web page, not a checkpoint")
    if name.endswith(".safetensors"):
        _check_safetensors(path)
    elif start.startswith(b"PK\x03\x04"):
        _check_zip(path, thorough)
    elif not start.startswith(_OLD_PICKLES):
        raise DamagedError(f"is no checkpoint: it begins with {start[:8]!r}")


def _check_zip(path: Path, thorough: bool) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip() if thorough else None
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError, OSError) as error:
        raise DamagedError(f"is cut off or damaged ({error})") from error
    if not any(entry.endswith("data.pkl") for entry in names):
        raise DamagedError("is a zip file, but no checkpoint")
    if damaged is not None:
        raise DamagedError(f"is damaged: the checksum of {damaged} is wrong")


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise DamagedError("is cut off or no safetensors file")
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
            if not isinstance(end, int):
                raise TypeError(f"an offset is {end!r}")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DamagedError("is damaged or no safetensors file") from error
    if size != 8 + length + end:
        raise DamagedError(f"is cut off: {size} bytes instead of {8 + length + end}")
