"""Numbers objects by their ids, in formats that have integers for objects, and reads ids from text."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

INTEGER = re.compile("0|-?[1-9][0-9]*")  # an integer as Python prints it
MOST_NAMED = 10  # maximum number of objects in a note


def id_of_text(text: str) -> int | str:
    """Returns an integer if it is printed as ``text``, otherwise the text, a name: ``007``, ``+1`` and ``1.0``."""
    return int(text) if INTEGER.fullmatch(text) else text


def object_numbers(ids: Iterable[Any], most: int | None = None) -> dict[Any, int]:
    """Returns a number from 1 for each id: the id itself, or, if an id does not fit, the position of each id.

    Ids fit if all ids are different integers from 1 to ``most``, or texts of such integers; see :func:`id_of_text`.
    """
    ids = list(dict.fromkeys(ids))
    numbers = [id_of_text(obj_id) if isinstance(obj_id, str) else obj_id for obj_id in ids]
    fit = all(isinstance(number, int) and 1 <= number <= (most or number) for number in numbers)
    return dict(zip(ids, numbers if fit and len({*numbers}) == len(ids) else range(1, len(ids) + 1), strict=True))


def positions_note(numbers: Mapping[str, Mapping[Any, int]]) -> str | None:
    """Returns a note on the formats with numbers that are not ids, or None. ``numbers`` are by format and id."""
    positions = {name: of_format for name, of_format in numbers.items() if _others(of_format)}
    if not positions:
        return None
    *names, last = positions
    formats = f"formats {', '.join(names)} and {last}" if names else f"format {last}"
    least, others = min(positions[last].values()), _others(positions[last])
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"ids in the {formats} are numbers from {least}: {', '.join(others[:MOST_NAMED])}{more}"


def _others(numbers: Mapping[Any, int]) -> list[str]:
    return [f"{number} is {obj_id}" for obj_id, number in numbers.items() if str(number) != str(obj_id)]
