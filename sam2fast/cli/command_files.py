"""Names, checks and atomically writes the files of commands."""

import errno
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, WriteError, as_user_error, format_error, print_note
from sam2fast.io.atomic import atomic_path, remove_leftovers
from sam2fast.io.made_from import described, described_videos, differences, is_whole
from sam2fast.results.formats import FILES, WITH_IMAGES

RESULTS = "masks.json"
RESERVED = '%/\\:*?"<>|'  # characters that Windows refuses in file names, and the character of percent-encoding
MOST_BYTES = 230  # of a file name: file systems take 255 bytes, and the temporary name is 22 bytes longer
START_AGAIN = "choose another --out, or leave --resume out to start again"
EXPORT_FILES = {name: file for name, file in FILES.items() if name != "png"}  # mask_files has "layers" for "png"


def output_files(out: Path, stem: str, names: Sequence[str | None] = (None,)) -> dict[str, Path]:
    """Returns the result files of an image: ``overlay``, ``json``, and each object's mask by :func:`mask_key`."""
    parts = {name: "" if name is None else "_" + name_in_file(name, stem) for name in names}
    masks = {mask_key(name): out / f"{stem}{parts[name]}_mask.png" for name in names}
    return {**masks, "overlay": out / f"{stem}_overlay.png", "json": out / f"{stem}.json"}


def name_in_file(name: str, stem: str) -> str:
    """Returns an object's name as a part of the file name of its mask, by :func:`encoded_name`.

    If the file name would be too long, the part is cut, and ends with ``~`` and 8 digits of the name's SHA-256.
    """
    part, room = os.fsencode(encoded_name(name)), MOST_BYTES - len(os.fsencode(f"{stem}__mask.png"))
    if len(part) <= room:
        return os.fsdecode(part)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{part[: max(0, room - 9)].decode(sys.getfilesystemencoding(), 'ignore')}~{digest}"


def encoded_name(name: str) -> str:
    """Returns a name with percent-encoded characters if file systems refuse or do not show these characters."""
    coding = sys.getfilesystemencoding()
    is_plain = {c: c.isprintable() and c not in RESERVED and bool(c.encode(coding, "ignore")) for c in name}
    return "".join(c if is_plain[c] else quote(c, safe="", errors="surrogatepass") for c in name)


def remove_encoded_masks(out: Path, stem: str, names: Sequence[str | None]) -> None:
    """Removes the masks of an earlier run of version 0.3, which percent-encoded all but ASCII characters in names."""
    now = output_files(out, stem, names).values()
    for name in filter(None, names):
        with suppress(OSError, UnicodeEncodeError):  # the name was too long, or could not be encoded
            before = out / f"{stem}_{quote(name, safe=' ')}_mask.png"
            if before not in now:
                before.unlink()


def files_of_object(files: Mapping[str, Path], name: str | None) -> dict[str, str]:
    """Returns, as JSON, the files of one object of :func:`output_files`."""
    return {"mask": str(files[mask_key(name)]), **{key: str(files[key]) for key in ("overlay", "json")}}


def mask_key(name: str | None) -> str:
    """Returns the key of an object's mask in :func:`output_files`."""
    return "mask" if name is None else f"mask of {name}"


def mask_files(out: Path, stem: str, formats: Sequence[str]) -> dict[str, Path]:
    """Returns the mask files of one image, by format. Format ``json`` is left out: one file holds all images."""
    files = {"layers": out / f"{stem}_masks.png", "overlay": out / f"{stem}_overlay.png"}
    files |= {name: out / name / file.format(stem) for name, file in EXPORT_FILES.items()}
    return {key: file for key, file in files.items() if key in formats}


def copies_of_images(out: Path, formats: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files in the folders of images beside labels, by stem."""
    copies: dict[str, list[Path]] = defaultdict(list)
    for name in WITH_IMAGES:
        folder = out / name / ("images" if FILES[name].startswith("labels/") else "")
        for path in folder.iterdir() if name in formats and folder.is_dir() else ():
            copies[path.stem].append(path)
    return copies


def check_results(
    sources: Sequence[InputSource], results: Callable[[InputSource], Iterable[Path]], others: Sequence[Path] = ()
) -> None:
    """Checks that no result overwrites an input, a file in ``others``, or a result of another source."""
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
    """Makes the output folder if missing."""
    check_folder(out, "output folder")
    out.mkdir(parents=True, exist_ok=True)


class OutputFolder:
    """An output folder with a record: the options of all results, and the inputs of each video.

    Raises:
        UserError: If ``overwrite`` is False, the folder is not empty, and the record of the results differs.
    """

    def __init__(
        self, record: Path, made_from: Mapping[str, Any], overwrite: bool = False, advice: str = "choose another folder"
    ) -> None:
        out, self._record, self._advice = record.parent, record, f", see {record}; {advice}"
        make_folder(out)
        remove_leftovers([record])  # partial files of a killed run
        with as_user_error(OSError, ValueError):
            is_new = all(path.name == record.name for path in out.iterdir())
            before = json.loads(record.read_text(encoding="utf-8")) if is_whole(record) else None
        previous: dict[str, Any] = before if isinstance(before, dict) and not is_new else {}
        if not overwrite and not is_new:
            if before is not previous:
                raise UserError(f"the folder {out} is not empty and has no {record.name} with its options; {advice}")
            check_same(out, previous.get("made_from"), made_from, self._advice)
        parts = {key: previous[key] for key in ("videos", "files") if isinstance(previous.get(key), dict)}
        self.made_from = made_from
        self._content: dict[str, Any] = {"made_from": made_from, **parts}

    @property
    def counts(self) -> Mapping[str, int]:
        """The expected number of files by video. A video with fewer files than expected is incomplete."""
        return self._content.get("files", {})

    def begin(self, videos: Mapping[str, Mapping[str, Any] | None], existing: Collection[str]) -> None:
        """Removes leftovers and records videos' inputs. Raises UserError if an existing video has other inputs."""
        # Names in a meta.json may be unusable as file names.
        remove_leftovers(self._record.with_name(name) for name in videos if name and name == Path(name).name)
        before = self._content.get("videos", {})
        others = {name: other for name in existing if (other := differences(before.get(name), videos.get(name)))}
        if others:
            raise UserError(f"{self._record.parent} {described_videos(others)}{self._advice}")
        self.write(videos=videos)

    def write(self, **parts: Mapping[str, Any]) -> None:
        """Updates the parts ``videos`` and ``files`` of the record, and writes it."""
        for key, part in parts.items():
            self._content[key] = {**self._content.get(key, {}), **part}
        write_atomically(self._record, (json.dumps(self._content, indent=2) + "\n").encode())


def check_same(place: object, before: Any, now: Any, advice: str) -> None:
    """Raises UserError if the record of a result differs; see :func:`sam2fast.io.made_from.differences`."""
    if other := differences(before, now):
        raise UserError(f"{place} {described(other)}{advice}")


def note_kept(place: Path) -> None:
    """Notes that an existing result is kept."""
    print_note(f"{click.format_filename(place)} exists with the same inputs and options, and is kept")


def check_folder(path: Path, what: str) -> None:
    """Checks that the path is a folder or does not exist."""
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        raise UserError(
            f"the {what} {str(path)!r} is {'a link, but not to a folder' if path.is_symlink() else 'a file'}"
        )


@contextmanager
def writing() -> Iterator[None]:
    """Raises an OSError as WriteError. If the file name is too long, raises UserError, since other names may fit."""
    try:
        yield
    except OSError as error:
        raise (UserError if error.errno == errno.ENAMETOOLONG else WriteError)(format_error(error)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with writing(), atomic_path(path) as partial:
        partial.write_bytes(content)
