"""Formats tracked boxes as MOT Challenge's text."""

from collections.abc import Iterable, Mapping
from typing import Any


def to_mot(lines: Iterable[Mapping[str, Any]], numbers: Mapping[Any, int]) -> str:
    """Returns a line ``frame,id,left,top,width,height,confidence,-1,-1,-1`` for each object that is visible on a frame.

    Frames and pixels are counted from 1. The confidence is the predicted IoU of the mask.

    Args:
        lines: Lines of ``masks.jsonl``.
        numbers: See :func:`~sam2fast.results.object_numbers.object_numbers`.
    """
    rows = []
    for line in lines:
        for entry in line["objects"]:
            if entry["area"]:
                left, top, width, height = entry["box"]
                box = f"{left + 1},{top + 1},{width},{height}"
                rows.append(f"{line['frame'] + 1},{numbers[entry['id']]},{box},{entry['score']},-1,-1,-1\n")
    return "".join(rows)
