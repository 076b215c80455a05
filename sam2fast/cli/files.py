"""The files that a verb writes: their names, what they must not overwrite, and how they appear whole."""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import click

from sam2fast.cli.errors import UserError, one_line
from sam2fast.io.atomic import SECONDS_TO_WRITE, moved_to, resolved
from sam2fast.io.images import SUFFIXES

RESULTS = "masks.json"
PARTIAL = re.compile(r"\.(?P<name>.+)\.\d+\.part")


def output_files(out: Path, stem: str) -> dict[str, Path]:
    """The files for one mask, by kind."""
    return {
        "mask": out / f"{stem}_mask.png",
        "overlay": out / f"{stem}_overlay.png",
        "json": out / f"{stem}.json",
    }


def mask_files(out: Path, stem: str, formats: Sequence[str]) -> dict[str, Path]:
    """The files for the masks of one image, by format; ``json`` is for all images and has none."""
    files = {"layers": out / f"{stem}_masks.png", "overlay": out / f"{stem}_overlay.png"}
    return {kind: file for kind, file in files.items() if kind in formats}


def list_images(paths: Sequence[Path], out: Path) -> list[Path]:
    """The given files, and the pictures right in the given folders by name; each once.

    Raises:
        UserError: a folder cannot be read, or has no pictures.
        click.UsageError: ``out`` is one of the folders, so that results would lie among its pictures.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for image in _pictures(path, out) if path.is_dir() else [path]:
            found.setdefault(os.path.realpath(image), image)
    return list(found.values())


def _pictures(folder: Path, out: Path) -> list[Path]:
    if os.path.realpath(folder) == os.path.realpath(out):
        raise click.UsageError(f"the results would lie among the pictures in {folder}; choose another --out folder")
    with one_line(OSError):
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"no pictures ({', '.join(SUFFIXES)}) in the folder {folder}")
    return found


def check_files(
    images: Sequence[Path],
    mask: Path | None,
    out: Path,
    outputs: Callable[[Path, str], Mapping[str, Path]] = output_files,
) -> None:
    """Checks before any work that all inputs are there, and that nothing read or written would be overwritten.

    Args:
        outputs: the files written for an image, by the output folder and the image's stem.

    Raises:
        UserError: an input is missing.
        click.UsageError: two images would be written to the same files, or a file over one of the inputs.
    """
    inputs = [*images, *([mask] if mask else [])]
    for path in inputs:
        if not path.is_file():
            raise UserError(f"no file {str(path)!r}")
    sources: dict[str, Path] = {}
    for image in images:
        # Names that differ in case only are the same file on some systems.
        other = sources.setdefault(image.stem.casefold(), image) if outputs(out, image.stem) else image
        if other is not image:
            raise click.UsageError(
                f"the results of {other} and {image} would overwrite one another, since the names are the same; "
                "run them one by one with different --out folders"
            )
    taken = {os.path.realpath(path) for path in inputs}
    for image in images:
        for file in outputs(out, image.stem).values():
            if os.path.realpath(file) in taken:
                raise click.UsageError(f"the result {file} would overwrite an input; choose another --out folder")


def make_folder(out: Path) -> None:
    """Makes the output folder unless it is there.

    Raises:
        UserError: a file is in the way, or the folder cannot be made.
    """
    check_folder(out, "output folder")
    with one_line(OSError):
        out.mkdir(parents=True, exist_ok=True)


def check_folder(path: Path, what: str) -> None:
    """That there is either nothing of this name, or a folder.

    Raises:
        UserError: a file is in the way, or a link to one or to nothing.
        OSError: nobody may look there.
    """
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        raise UserError(f"the {what} {str(path)!r} is {'a link to no folder' if path.is_symlink() else 'a file'}")


def remove_leftovers(files: Iterable[Path], is_spread: bool = False) -> None:
    """Removes what processes that were killed have left half-written of these files.

    Args:
        is_spread: processes elsewhere may be writing them, so what is young stays. Otherwise nobody may be.

    Raises:
        UserError: that fails.
    """
    names: dict[Path, set[str]] = {}
    latest = time.time() - SECONDS_TO_WRITE if is_spread else math.inf
    with one_line(OSError):
        for file in map(resolved, files):
            names.setdefault(file.parent, set()).add(file.name)
        for folder in filter(Path.is_dir, names):
            for path in folder.iterdir():
                found = PARTIAL.fullmatch(path.name)
                with suppress(FileNotFoundError):  # whoever wrote it was there first
                    if found and found["name"] in names[folder] and path.stat().st_mtime <= latest:
                        path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        UserError: it cannot be written; nothing is left behind.
    """
    with one_line(OSError), moved_to(path) as partial:
        partial.write_bytes(content)
