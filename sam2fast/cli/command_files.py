"""Names, checks and atomic writes of the files of commands."""

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, WriteError, as_user_error, format_error
from sam2fast.io.atomic import STALE_AFTER_SECONDS, atomic_path, resolve_symlinks
from sam2fast.io.made_from import described, described_videos, differences, is_whole

RESULTS = "masks.json"
START_AGAIN = "choose another --out, or leave --resume out to start again"
# As sam2fast.mask_formats.writers.FILES, without "png", which is "layers" here.
EXPORT_FILES = {
    "yolo": "labels/{}.txt",
    "yolo-seg": "labels/{}.txt",
    "labelme": "{}.json",
    "labelme-mask": "{}.json",
    "label-studio": "{}.json",
    "npz": "{}.npz",
    "geojson": "{}.geojson",
}
VOLUME_FILES = {"nifti": "masks.nii.gz", "dicom-seg": "masks.dcm"}
PARTIAL = re.compile(r"\.(?P<name>.+)\.\d+\.part")


def output_files(out: Path, stem: str, names: Sequence[str | None] = (None,)) -> dict[str, Path]:
    """Returns the files for the objects of one image: overlay, JSON, and by :func:`mask_key` the mask of each.

    Args:
        names: Names of the objects; None for an object without a name.
    """
    masks = {mask_key(name): out / f"{stem}{_in_file_name(name)}_mask.png" for name in names}
    return {**masks, "overlay": out / f"{stem}_overlay.png", "json": out / f"{stem}.json"}


def files_of_object(files: Mapping[str, Path], name: str | None) -> dict[str, str]:
    """The files of one object of :func:`output_files`, as JSON."""
    return {"mask": str(files[mask_key(name)]), **{kind: str(files[kind]) for kind in ("overlay", "json")}}


def mask_key(name: str | None) -> str:
    """Returns the key of an object's mask in :func:`output_files`."""
    return "mask" if name is None else f"mask of {name}"


def _in_file_name(name: str | None) -> str:
    return "" if name is None else "_" + quote(name, safe=" ")


def mask_files(out: Path, stem: str, formats: Sequence[str]) -> dict[str, Path]:
    """Returns the files for the masks of one image, by format. ``json`` has none: its file is for all images."""
    files = {"layers": out / f"{stem}_masks.png", "overlay": out / f"{stem}_overlay.png"}
    files |= {name: out / name / file.format(stem) for name, file in EXPORT_FILES.items()}
    return {kind: file for kind, file in files.items() if kind in formats}


def check_results(
    sources: Sequence[InputSource], results: Callable[[InputSource], Iterable[Path]], others: Sequence[Path] = ()
) -> None:
    """Checks before any work that no result overwrites an input or another result.

    Args:
        results: The files written for an input.
        others: Other input files.
    """
    owners: dict[str, InputSource] = {}
    paths = [source.path for source in sources if source.path is not None]
    taken = {os.path.realpath(path) for path in (*paths, *others)}
    for source in sources:
        for file in results(source):
            # Names that differ only in case are the same file on some systems.
            other = owners.setdefault(str(file).casefold(), source)
            if other is not source:
                raise click.UsageError(
                    f"the results of {other} and {source} would overwrite one another, since the names are the same; "
                    "run them one by one with different --out folders"
                )
            if os.path.realpath(file) in taken:
                raise click.UsageError(f"the result {file} would overwrite an input; choose another --out folder")


def make_folder(out: Path) -> None:
    """Makes the output folder if it does not exist."""
    check_folder(out, "output folder")
    with as_user_error(OSError):
        out.mkdir(parents=True, exist_ok=True)


def open_output(
    out: Path,
    file: str,
    made_from: Mapping[str, Any],
    overwrite: bool = False,
    videos: Mapping[str, Mapping[str, Any] | None] | None = None,
    there: Collection[str] = (),
    advice: str = "choose another folder",
) -> None:
    """Makes an output folder, or continues one with an equal record.

    Args:
        file: The name of the record in the folder.
        made_from: Record of the whole folder; see :mod:`sam2fast.io.made_from`.
        overwrite: Accepts any folder.
        videos: Record of each video.
        there: Videos that are in the folder and stay.

    Raises:
        UserError: If the folder is not empty, and its record or the record of a video in it differs.
    """
    make_folder(out)
    record = out / file
    remove_leftovers([record])  # of a killed run
    with as_user_error(OSError):
        is_new = not any(path.name != file for path in out.iterdir())
    before = _read_record(record)
    recorded = _by_video(before, "videos")
    if not overwrite and not is_new:
        if not isinstance(before, dict):
            raise UserError(f"the folder {out} is not empty and has no {file} with its options; {advice}")
        if other := differences(before.get("made_from"), made_from):
            raise UserError(f"{out} {described(other)}, see {record}; {advice}")
    of_videos = videos or {}
    others = {name: other for name in there if (other := differences(recorded.get(name), of_videos.get(name)))}
    if others:
        raise UserError(f"{out} {described_videos(others)}, see {record}; {advice}")
    content = {"made_from": made_from, **({} if videos is None else {"videos": {**recorded, **of_videos}})}
    counts = read_counts(out, file)
    _write_record(record, {**content, **({"files": counts} if counts else {})})


def read_counts(out: Path, file: str) -> dict[str, int]:
    """Returns the number of files of each video that :func:`add_counts` wrote to the record of an output folder."""
    return _by_video(_read_record(out / file), "files")


def add_counts(out: Path, file: str, counts: Mapping[str, int]) -> None:
    """Adds the number of files of each video to the record of an output folder: a video with fewer is not whole."""
    _write_record(out / file, {**_read_record(out / file), "files": {**read_counts(out, file), **counts}})


def _read_record(record: Path) -> Any:
    """Returns the content of a record, or None if it does not exist or is truncated."""
    with as_user_error(OSError, ValueError):
        return json.loads(record.read_text(encoding="utf-8")) if is_whole(record) else None


def _by_video(record: Any, key: str) -> dict[str, Any]:
    """Returns a part of a record; nothing if the record is damaged."""
    found = record.get(key) if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def _write_record(record: Path, content: Mapping[str, Any]) -> None:
    write_atomically(record, (json.dumps(content, indent=2) + "\n").encode())


def check_folder(path: Path, what: str) -> None:
    """Checks that the path is a folder or does not exist."""
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        raise UserError(f"the {what} {str(path)!r} is {'a link to no folder' if path.is_symlink() else 'a file'}")


def remove_leftovers(files: Iterable[Path], is_spread: bool = False) -> None:
    """Removes partial files that killed processes left behind for these files.

    Args:
        is_spread: True if other processes may write the files; then recent partial files stay.
    """
    names: dict[Path, set[str]] = {}
    latest = time.time() - STALE_AFTER_SECONDS if is_spread else math.inf
    with as_user_error(OSError):
        for file in map(resolve_symlinks, files):
            names.setdefault(file.parent, set()).add(file.name)
        for folder in filter(Path.is_dir, names):
            for path in folder.iterdir():
                found = PARTIAL.fullmatch(path.name)
                with suppress(FileNotFoundError):  # another process removed it first
                    if found and found["name"] in names[folder] and path.stat().st_mtime <= latest:
                        path.unlink()


@contextmanager
def writing() -> Iterator[None]:
    """Raises errors of writing as WriteError. A name that is too long is a UserError, since other names may fit."""
    try:
        yield
    except OSError as error:
        raise (UserError if error.errno == errno.ENAMETOOLONG else WriteError)(format_error(error)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with writing(), atomic_path(path) as partial:
        partial.write_bytes(content)
