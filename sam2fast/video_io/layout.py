"""Whether a file has as many bytes as it says it has."""

import os
from typing import BinaryIO

SEGMENT = b"\x18\x53\x80\x67"  # what a Matroska file consists of, besides a header
# Boxes of MP4 that frames need; others may be cut off without loss.
FRAMES_OR_INDEX = (b"moov", b"moof", b"mdat")
HEADER = b"\x1a\x45\xdf\xa3"


def bytes_missing(file: BinaryIO) -> int | None:
    """How many bytes the outermost boxes of a file reach beyond its end, 0 if all is there; None if they do not say.

    Knows MP4 and QuickTime, Matroska and WebM, and AVI. Reads a few bytes of each box.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == HEADER:
        return _of_matroska(file, length)
    if head[:4] == b"RIFF":
        return _of_avi(file, length)
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip"):
        return _of_mp4(file, length)
    return None


def _of_mp4(file: BinaryIO, length: int) -> int | None:
    position, kind = 0, b""
    while position < length:
        file.seek(position)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 0:  # as far as the file reaches
            return None
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return None
        position += size
    return position - length if kind in FRAMES_OR_INDEX else 0


def _of_avi(file: BinaryIO, length: int) -> int | None:
    position = 0
    while position < length:
        file.seek(position)
        head = file.read(8)
        if head[:4] != b"RIFF":  # something else was appended
            return 0
        size = int.from_bytes(head[4:8], "little")
        if size in (0, 0xFFFFFFFF):  # never finished
            return None
        position += 8 + size
    return position - length


def _of_matroska(file: BinaryIO, length: int) -> int | None:
    file.seek(len(HEADER))
    header = _number(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return None
    size = _number(file)
    return None if size is None else max(file.tell() + size - length, 0)


def _number(file: BinaryIO) -> int | None:
    """A number whose first byte's leading zeros say how many bytes follow; None for all ones, which is unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    rest = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> rest + 1)]) + file.read(rest), "big")
    return None if value == (1 << 7 * (rest + 1)) - 1 else value
