"""Names files of other programs by their first bytes, so that error messages say what a file is and what to do."""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD = 1024  # number of first bytes that :func:`kind_of` reads
_MADE_FROM = ": use the checkpoint that it was made from"
_CONVERT, _UNPACK = ": convert it to PNG, TIFF or JPEG", ": unpack it"
VIDEO, TEXT = "a video", "a text file"
_BOM = rb"(?:\xef\xbb\xbf)?"
# Regular expressions for the first bytes, names, and advice. The first match is used.
_KINDS = (
    (rb"\Z", "an empty file", ": copy or download it again"),
    (rb"version https://git-lfs", "a Git LFS pointer", ": run `git lfs pull`"),
    (_BOM + rb"(?:\s|<[?!][^>]*>|\]>)*<(?:\w+:)?svg\b", "an SVG drawing", _CONVERT),
    (_BOM + rb"\s*<", "a web page", ": download the file that the page links to"),
    (rb"%PDF|%!PS", "a PDF or PostScript document", ": export its image or page as PNG or JPEG"),
    (rb"II\*\0.{4}CR|.{4}ftypcrx |FUJIFILMCCD-RAW|II[RU]|MMOR|FOVb", "a camera's raw file", _CONVERT),
    (rb"\xff\n|.{4}JXL |gimp xcf|AT&TFORM|#\?R|\xd7\xcd\xc6", "an image in a format that is not supported", _CONVERT),
    (rb"\x93NUMPY", "a NumPy array", ": load it by numpy.load in Python"),
    (rb".{128}DICM", "a DICOM file", ": `sam2fast track` reads it"),
    (rb".{4}ftyp(?!mif1|msf1|hei|hev|avi)|\x1aE\xdf\xa3|RIFF.{4}AVI ", VIDEO, ": `sam2fast track` reads it"),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras and MATLAB write them", ""),
    (rb"GGUF", "a GGUF file", _MADE_FROM),
    (rb"\x08[\x01-\x14][\x12\x1a\x22\x3a]", "an ONNX model", _MADE_FROM),
    (rb"\x1f\x8b|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", "a packed file", _UNPACK),
    (rb"PK[\x01-\x08]", "a ZIP archive or an Office document", _UNPACK),
    (_BOM + rb"[\t\n\r -~]+\Z", TEXT, ""),
)
_PATTERNS = tuple(re.compile(pattern, re.DOTALL) for pattern, *_ in _KINDS)


class FileKind(NamedTuple):
    """Stores the name of a file's kind, and advice to append to a message about the file."""

    name: str
    advice: str


def kind_of(head: bytes) -> FileKind | None:
    """Returns the kind of a file with these first :data:`HEAD` bytes, or None for other files."""
    matches = (FileKind(*kind[1:]) for kind, pattern in zip(_KINDS, _PATTERNS, strict=True) if pattern.match(head))
    return next(matches, None)


def first_bytes(file: str | Path | bytes | BinaryIO) -> bytes:
    """Returns the first :data:`HEAD` bytes of a file. Rewinds an open file before and after."""
    if isinstance(file, bytes):
        return file[:HEAD]
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            return opened.read(HEAD)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return head
