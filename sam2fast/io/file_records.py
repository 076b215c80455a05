"""Computes digests of files, and reads JSON records of exports.

Imports only the standard library, since exported trackers contain this file.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

Facts = TypeVar("Facts", bound=Any)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 digest of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def read_record(path: Path, record_type: type[Facts], failure: type[Exception]) -> Facts:
    """Reads an export's JSON into a dataclass with a field ``format``. Raises ``failure`` if the JSON is damaged."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        known = {field.name: field.default for field in fields(record_type)}
        if content["format"] != known["format"]:
            raise failure(f"{path} has the format {content['format']!r}; this program reads {known['format']!r}")
        return record_type(**{name: content[name] for name in known if name in content})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise failure(f"{path} is damaged: {type(error).__name__}: {reason}; export the model again") from error
