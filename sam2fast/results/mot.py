"""Formats tracked boxes as MOT Challenge's text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def mot_numbers(ids: Sequence[Any]) -> dict[Any, int]:
    """Returns a number from 1 for each id: the id if all ids are numbers from 1, otherwise the id's position."""
    if all(isinstance(obj_id, int) and obj_id > 0 for obj_id in ids):
        return {obj_id: obj_id for obj_id in ids}
    return {obj_id: number for number, obj_id in enumerate(ids, 1)}


def to_mot(lines: Iterable[Mapping[str, Any]], numbers: Mapping[Any, int]) -> str:
    """Returns a line ``frame,id,left,top,width,height,confidence,-1,-1,-1`` for each object that is visible on a frame.

    Frames and pixels are counted from 1. The confidence is the predicted IoU of the mask.

    Args:
        lines: Lines of ``masks.jsonl``.
        numbers: See :func:`mot_numbers`.
    """
    rows = []
    for line in lines:
        for entry in line["objects"]:
            if entry["area"]:
                left, top, width, height = entry["box"]
                box = f"{left + 1},{top + 1},{width},{height}"
                rows.append(f"{line['frame'] + 1},{numbers[entry['id']]},{box},{entry['score']},-1,-1,-1\n")
    return "".join(rows)
