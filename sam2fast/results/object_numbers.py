"""Numbers objects in formats that have integers for objects."""

from collections.abc import Iterable, Mapping
from typing import Any

MOST_NAMED = 10  # maximum number of objects in a note


def object_numbers(ids: Iterable[Any], most: int | None = None) -> dict[Any, int]:
    """Returns a number from 1 for each id: the id if all ids are integers from 1 to ``most``, otherwise positions."""
    ids = list(dict.fromkeys(ids))
    if all(isinstance(obj_id, int) and 1 <= obj_id <= (most or obj_id) for obj_id in ids):
        return {obj_id: obj_id for obj_id in ids}
    return {obj_id: position for position, obj_id in enumerate(ids, 1)}


def positions_note(numbers: Mapping[Any, int], format: str) -> str | None:
    """Returns a note on numbers that are not ids, or None if all numbers are ids."""
    others = [f"{number} is {obj_id}" for obj_id, number in numbers.items() if number != obj_id]
    if not others:
        return None
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"ids in the format {format} are numbers from 1: {', '.join(others[:MOST_NAMED])}{more}"
