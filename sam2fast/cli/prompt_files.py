"""Prompts in JSON files, of ``sam2fast track`` and ``sam2fast segment``."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sam2fast.cli.prompt_options import FOREGROUND, Box, Click, Prompts, Reason, read_label, read_numbers
from sam2fast.cli.user_errors import UserError, as_user_error

ObjectId: TypeAlias = int | str
T = TypeVar("T")
KEYS = ("points", "labels", "box", "mask")


def read_entries(
    path: Path, required: Sequence[str], optional: Sequence[str], read: Callable[[Mapping[str, Any], Prompts], T]
) -> list[T]:
    """The prompts of a file ``{"prompts": [{...}, ...]}``. Mask paths are relative to its folder.

    Args:
        required: keys of each entry besides :data:`KEYS`.
        optional: further keys.
        read: makes the result of an entry and its prompts; may raise :class:`Reason`.
    """
    content = read_json(path)
    entries = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(entries, list) or set(content) != {"prompts"}:
        raise UserError(f'{path} is not {{"prompts": [...]}}')
    known, found = (*required, *optional, *KEYS), []
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, Mapping):
                raise Reason(f"expected an object with {', '.join(known)}, got {entry!r}")
            unknown = sorted(set(entry) - set(known))
            if unknown:
                raise Reason(f"there is no key {unknown[0]!r}; the keys are {', '.join(known)}")
            if not set(required) <= set(entry):
                raise Reason(f"{' or '.join(required)} is missing")
            found.append(read(entry, _prompts(entry, path.parent)))
        except ValueError as error:
            raise UserError(f"{path}, prompt {number}: {error}") from error
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        with as_user_error(OSError):
            return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def object_id(value: Any) -> ObjectId:
    """An integer, also if it is written as text; other text is a name. Raises ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Reason(f"the object is {value!r}; expected an integer or a name")


def read_box(values: Any) -> Box:
    """A box of four numbers that has an area; raises ValueError for anything else."""
    box = Box(*read_numbers(values, (4,), "the box"))
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise Reason("the box has no area; expected X0 < X1 and Y0 < Y1")
    return box


def _prompts(entry: Mapping[str, Any], folder: Path) -> Prompts:
    points, labels = entry.get("points") or [], entry.get("labels")
    if not isinstance(points, list) or not (labels is None or isinstance(labels, list)):
        raise Reason("points and labels must be lists")
    labels = [FOREGROUND] * len(points) if labels is None else labels
    if len(labels) != len(points):
        raise Reason(f"{len(labels)} labels for {len(points)} points")
    places = [read_numbers(point, (2,), "a point") for point in points]
    clicks = tuple(Click(x, y, read_label(label)) for (x, y), label in zip(places, labels, strict=True))
    box, mask = entry.get("box"), entry.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise Reason(f"the mask is {mask!r}; expected the path of an image")
    return Prompts(clicks, None if box is None else read_box(box), None if mask is None else folder / mask)
