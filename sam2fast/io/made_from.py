"""Compares the record of a result on disk with the record of a new result.

A record is JSON: the version, digests of weights and of inputs, and the command's ``options``. Commands write a record
with each result. Before a command keeps an existing result, the command calls :func:`differences`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Maps suffixes to the last bytes of a complete file, without trailing white space.
ENDINGS = {
    ".png": (b"IEND\xaeB`\x82",),
    ".jpg": (b"\xff\xd9",),
    ".json": (b"}", b"]"),
    ".jsonl": (b"}",),
    ".geojson": (b"}",),
    ".npz": (b"PK\x05\x06",),
}
TAIL = 64  # bytes read from a file's end; a ZIP archive without comment ends with a record of 22 bytes
MAX_NAMED = 3  # maximum videos named in a message
UNRECORDED = "unrecorded inputs"
MAY_BE_EMPTY = (".txt",)  # label files of images without objects are empty


def differences(before: Any, now: Any) -> list[str]:
    """Returns the names of all differences between two records. For results of version 0.2, a record is None."""
    now = json.loads(json.dumps(now))
    if before == now:
        return []
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [UNRECORDED]
    old, new = _named(before), _named(now)
    return [_shown(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]


def described(names: Iterable[str]) -> str:
    """Converts :func:`differences` to a clause for messages: ``differs in weights and --dtype``."""
    *first, last = dict.fromkeys(names)
    if last == UNRECORDED:
        return "does not say what it was made from"
    return "differs in " + (f"{', '.join(first)} and {last}" if first else last)


def described_videos(others: Mapping[str, Sequence[str]]) -> str:
    """Converts the :func:`differences` of videos to a clause: ``has 2 of these videos (a, b) made from ...``."""
    first, names = next(iter(others.items()))
    some = ", ".join([*others][:MAX_NAMED]) + (", ..." if len(others) > MAX_NAMED else "")
    return f"has {len(others)} of these videos ({some}) made from something else: {first} {described(names)}"


def is_whole(file: Path) -> bool:
    """Returns True if a file exists and its end is complete. For a folder, checks all visible files."""
    if file.is_dir():
        return are_whole(files_below(file))
    suffix = file.suffix.lower()
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(0, size - TAIL))
            tail = opened.read()
    except OSError:
        return False
    if suffix == ".npz":
        return ENDINGS[suffix][0] in tail
    return tail.rstrip().endswith(ENDINGS[suffix]) if suffix in ENDINGS else bool(size) or suffix in MAY_BE_EMPTY


def are_whole(files: Sequence[Path], count: int | None = None) -> bool:
    """Returns True if there are ``files``, all files are complete, and ``count`` (if not None) is their number."""
    return bool(files) and count in (None, len(files)) and all(map(is_whole, files))


def files_below(folder: Path) -> list[Path]:
    """Returns sorted paths of all files in a folder and its subfolders, except hidden files."""
    return sorted(path for path in folder.rglob("[!.]*") if path.is_file())


def recorded_dtype(file: Path) -> str | None:
    """Reads the dtype from a JSON file of results. Returns None if the file does not exist or states no dtype."""
    try:
        content = json.loads(file.read_bytes())
        content = content.get("info", content)  # as in COCO
        content = content["results"][0] if "results" in content else content
        dtype = content["made_from"]["options"]["dtype"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return dtype if isinstance(dtype, str) else None


def _named(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a record by name for messages: ``--image-size``, ``video content``."""
    options = record.get("options")
    options = options if isinstance(options, Mapping) else {}  # if False, the record is damaged
    named = {name.replace("_", " "): value for name, value in record.items() if name != "options"}
    return named | {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _shown(name: str, before: Any, now: Any) -> str:
    is_short = (name == "version" or name.startswith("--")) and not isinstance(now, list | dict)
    return f"{name} ({before}, now {now})" if is_short else name
