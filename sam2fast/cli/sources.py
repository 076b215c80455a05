"""Lists and opens inputs: files, folders, patterns such as ``'photos/*.jpg'``, web addresses, and ``-`` for stdin."""

import glob
import http.client
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import click

from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.user_errors import USER_ERRORS, ErrorReport, UserError, as_user_error, format_error, print_note
from sam2fast.io.atomic import expanded
from sam2fast.io.file_records import file_sha256
from sam2fast.io.image_names import GivenImage, distinct_stems, relative_names, utf8_text
from sam2fast.io.images import (
    CINEMA_SUFFIXES,
    IMAGE_READ_ERRORS,
    IMAGE_SUFFIXES,
    SUFFIXES,
    files_of_kind,
    is_animation,
    numbered_files_hint,
    open_image,
)
from sam2fast.io.tiff_header import read_tiff_header

STDIN, CAMERA = "-", "camera:"
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".dcm")
TIMEOUT = 30.0  # maximum seconds to connect to an address, and between bytes
MOST_BYTES, MOST_SECONDS = 4 << 30, 3600.0  # maximum bytes and seconds of a download
ListFolder = Callable[[Path], Sequence[Path]]


@dataclass(frozen=True)
class InputSource:
    """An input image or video. ``str(source)`` is the name in messages and results."""

    text: str  # path, address, or ``-``
    content: bytes | None = field(default=None, repr=False)  # content of stdin, for ``-``
    others: tuple[str, ...] = field(default=(), compare=False)  # other paths of the same input on the command line
    own_stem: str | None = field(default=None, compare=False)  # beginning of the names of results, if not the stem

    def __str__(self) -> str:
        return without_password(self.text)

    @property
    def path(self) -> Path | None:
        """The local file or folder; None for an address and for stdin."""
        return None if self.content is not None or is_address(self.text) else Path(self.text)

    @property
    def file_name(self) -> str:
        """The name of the file. For an address, the last part, without characters that file names cannot have."""
        if self.path is not None:
            return self.path.name
        if self.content is not None:
            return "stdin"
        return re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(self.text).path)).name) or "download"

    @property
    def stem(self) -> str:
        """The beginning of the names of results: the name of the folder, or of the file without suffix.

        If another input has the same stem, the name with suffix.
        """
        if self.own_stem is not None:
            return self.own_stem
        if self.path is not None and self.path.is_dir():
            return utf8_text(os.path.basename(os.path.abspath(self.path)))
        return utf8_text(Path(self.file_name).stem)

    def made_from(self) -> dict[str, str]:
        """Returns the path or address of an image and the digest of its content. Downloads an address."""
        with self.file() as file:
            return {"image_path": self.resolved, "image_content": file_sha256(file)}

    @property
    def given(self) -> GivenImage:
        """The image for names in files of prompts and boxes."""
        if self.content is not None:
            return GivenImage(str(self), (self.file_name,), str(self))  # results are named stdin, and name the image -
        if self.path is None:
            return GivenImage.of(self.text, str(self))
        others = [self.resolved, *map(os.path.abspath, self.others)]
        return GivenImage.of(os.path.abspath(self.path), str(self), others)

    @property
    def resolved(self) -> str:
        """The path, with links of its folder resolved, or the address. Identifies the input.

        A link to a file is another input than the file, since both have names.
        """
        if self.path is None:
            return str(self)
        if self.path.name in ("", ".."):
            return utf8_text(os.path.realpath(self.path))
        return utf8_text(os.path.join(os.path.realpath(self.path.parent), self.path.name))

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Yields the local file or folder, or a temporary file with the content of an address or of stdin.

        Errors of USER_ERRORS in the block become UserErrors that name the input instead of the temporary file.
        """
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="sam2fast-") as folder:
            file = Path(folder, self.file_name)
            with as_user_error(OSError):
                if self.content is not None:
                    file.write_bytes(self.content)
                else:
                    _download(self.text, file)
            try:
                yield file
            except USER_ERRORS as error:
                error_type = type(error) if isinstance(error, UserError) else UserError
                raise error_type(format_error(error).replace(str(file), str(self))) from error


def is_address(text: str) -> bool:
    """Returns True for an address, such as ``https://host/photo.jpg``, or a camera, and False for a path."""
    return "://" in text or text.startswith(CAMERA)


def may_exist(resolved: str) -> bool:
    """Returns False if an image, a value of :attr:`InputSource.resolved`, was removed from a folder that exists.

    If the folder is missing, it may have been renamed, or may be on a drive that is not mounted.
    """
    is_path = resolved != STDIN and not is_address(resolved)
    return not is_path or os.path.lexists(resolved) or not os.path.isdir(os.path.dirname(resolved))


def without_password(text: str) -> str:
    """Returns an address without user and password."""
    return re.sub(r"://[^/@]*@", "://", text) if is_address(text) else text


def list_sources(texts: Sequence[str], list_folder: ListFolder, unit: str) -> tuple[list[InputSource], ErrorReport]:
    """Returns the inputs of a command without duplicates (paths with equal :attr:`InputSource.resolved`).

    Also returns a report of inputs that do not exist.

    Args:
        list_folder: Function that lists the images or videos of a folder, and raises UserError for other folders.
        unit: Name of the inputs, such as ``images``.
    """
    sources: dict[str, InputSource] = {}
    problems = []
    for text in texts:
        try:
            for source in _expand(text, list_folder):
                first = sources.setdefault(source.resolved, source)
                if first.text != source.text:
                    sources[source.resolved] = replace(first, others=(*first.others, source.text))
        except USER_ERRORS as error:
            problems.append((text, format_error(error)))
    for key, source in list(sources.items()):
        if unit == "images" and source.text.lower().endswith(VOLUME_SUFFIXES) and source.path is not None:
            problems.append(
                (str(source), f"{source} is a volume: use `sam2fast track`, which reads its slices as frames")
            )
            del sources[key]
    folders: dict[Path, list[str]] = {}
    for key, source in list(sources.items()) if unit == "videos" else ():
        if source.path is not None and _is_image(source.path):
            folders.setdefault(source.path.parent, []).append(source.text)
            del sources[key]
    for folder, images in folders.items():
        if len(images) == 1:
            why = f"{images[0]} is an image: use `sam2fast segment`; if it is a frame of a video, give the folder"
            problems.append((images[0], why))
        else:
            why = f"{len(images)} images in {folder} are not videos; if they are frames of a video, give the folder: "
            problems.append((str(folder), f"{why}`sam2fast track {folder}`"))
    report = ErrorReport(unit, is_single=len(sources) + len(problems) == 1)
    for text, why in problems:
        report.add(text, why)
    return _with_distinct_stems(list(sources.values()), unit), report


def _with_distinct_stems(sources: Sequence[InputSource], unit: str) -> list[InputSource]:
    """Returns the inputs with different names of results; see :func:`~sam2fast.io.image_names.distinct_stems`."""
    stems = [source.stem for source in sources]
    names = [utf8_text(one.file_name) if one.path is None or one.path.is_file() else one.stem for one in sources]
    stems = distinct_stems(names, stems)
    found = [replace(source, own_stem=stem) for source, stem in zip(sources, stems, strict=True)]
    renamed = [one for source, one in zip(sources, found, strict=True) if one.stem != source.stem]
    if renamed and len({*map(str.casefold, stems)}) == len(stems):  # otherwise, check_results refuses the inputs
        count = f"{len(renamed)} {unit}" if len(renamed) > 1 else f"1 of the {unit}"
        print_note(
            f"{count} differ from others only by the suffix, which the names of results keep: the results of "
            f"{renamed[0]} begin with {renamed[0].stem}"
        )
    return found


def file_names(sources: Iterable[InputSource]) -> dict[InputSource, str]:
    """Returns the names of images in files of results: see :func:`relative_names`. Addresses and ``-`` stay."""
    sources = list(sources)
    names = relative_names([str(source) if source.path is None else source.path for source in sources])
    return dict(zip(sources, names, strict=True))


def _is_image(path: Path) -> bool:
    """Returns True if a file has an image's suffix and a header that states one image."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or path.is_dir():
        return False
    if suffix in CINEMA_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            if header := read_tiff_header(file):
                return len(header.images) == 1
        with open_image(path) as image:
            return not is_animation(image)
    except IMAGE_READ_ERRORS:
        return False  # the error is reported when the file is opened as a video


def _expand(text: str, list_folder: ListFolder) -> list[InputSource]:
    if text == STDIN:
        content = sys.stdin.buffer.read()
        if not content:
            raise UserError("stdin (-) is empty")
        return [InputSource(text, content)]
    if is_address(text):
        return [InputSource(text)]
    try:
        os.stat(text)
    except FileNotFoundError:
        if (home := str(expanded(text))) != text and text.startswith("~"):  # the shell did not expand a quoted ~
            return _expand(home, list_folder)
        if not glob.has_magic(text):
            raise UserError(f"no file {text!r}{numbered_files_hint(text)}") from None
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise UserError(f"no file matches {text!r}") from None
        return [source for match in matches for source in _expand_path(match, list_folder)]
    except (OSError, ValueError) as error:
        raise UserError(format_error(error)) from error
    return _expand_path(text, list_folder)


def _expand_path(text: str, list_folder: ListFolder) -> list[InputSource]:
    paths = list_folder(Path(text)) if os.path.isdir(text) else [text]
    return [InputSource(str(path)) for path in paths]


def images_in(folder: Path, out: Path, left_out: LeftOut) -> list[Path]:
    """Returns the images of a folder without subfolders, sorted by name. Includes broken links.

    Args:
        out: Folder for the results.
        left_out: Record that counts hidden images, such as macOS's ``._IMG_1.jpg``, and other files.

    Raises:
        UserError: If the folder has no image.
        click.UsageError: If the folder is also the folder for the results.
    """
    if os.path.realpath(folder) == os.path.realpath(out):
        raise click.UsageError(f"the results would lie among the images in {folder}; choose another --out folder")
    images, others = [], LeftOut()
    paths = sorted(folder.iterdir())
    for path in paths:
        is_image, is_hidden = path.suffix.lower() in IMAGE_SUFFIXES, path.name.startswith(".")
        is_broken = path.is_symlink() and not path.exists()
        if is_image and is_hidden:
            others.add("file", "it is hidden", path)
        elif is_image and (path.is_file() or is_broken):  # reading a broken link is an error of this image
            images.append(path)
        elif is_image:
            others.add("path", "it is not a file", path)
        elif path.is_file() and not is_hidden:
            others.add("file", f"its type is {path.suffix.lower() or 'unknown'}", path)
    if not images:
        why = f"; left out: {others}" if others else ""
        if any(path.name.lower().endswith(VOLUME_SUFFIXES) for path in paths):
            why += "; volumes are read by `sam2fast track`"
        raise UserError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in the folder {folder}{why}")
    left_out.add_all(others)
    return images


def videos_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """Returns the videos in a folder, sorted by name. If most files are images, returns the folder itself."""
    paths = sorted(folder.iterdir())
    (images, hidden_images), (videos, hidden) = files_of_kind(paths, IMAGE_SUFFIXES), files_of_kind(paths)
    is_video = len(images) > len(videos) or not videos
    for path in hidden_images if is_video else hidden:
        left_out.add("file", "it is hidden", path)
    if is_video:
        add_other_files(folder, left_out)
        return [folder]
    for path in images:
        left_out.add("file", f"its type is {path.suffix.lower()}", path)
    return videos


def add_other_files(folder: Path, left_out: LeftOut) -> None:
    """Counts images and videos that lie beside the frames of a video."""
    from sam2fast.video_io.sources import other_files
    from sam2fast.video_io.video_types import VideoError

    with suppress(VideoError):  # opening the folder as a video raises this error again
        for name in other_files(folder):
            left_out.add("file", f"its type is {Path(name).suffix.lower()}", folder / name)


def _download(address: str, file: Path) -> None:
    """Downloads an address to a file, up to :data:`MOST_BYTES` and :data:`MOST_SECONDS`."""
    name = without_password(address)
    if not address.startswith(("http://", "https://")):
        raise UserError(f"{name} cannot be read: expected a file, or an address with http:// or https://")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, file.open("wb") as copy:  # noqa: S310
            end = time.monotonic() + MOST_SECONDS
            while block := answer.read1(1 << 20):
                copy.write(block)
                if copy.tell() > MOST_BYTES:
                    raise ValueError(f"it has more than {MOST_BYTES:,} bytes; download it and give the file")
                if time.monotonic() > end:
                    raise ValueError(f"it takes more than {MOST_SECONDS:g} seconds; download it and give the file")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{name} cannot be read: {format_error(error)}") from error
