"""What has to be known of a case's rows: notes by letters in the cells they are of, and who was not timed."""

import re
from collections.abc import Iterable, Sequence
from string import ascii_lowercase
from typing import Any

from figures.text import capitalised

UNASKED = "not asked for"
BEFORE = re.compile(r"(\d+) frames before the first")
# Cases whose results are masks with filled holes; which are small enough to be filled depends on roundings.
FILLED = ("video steady frame", "stream latency")
UNFILLED = "holes are not filled"
JUMPS = "mostly of holes that one side fills and the other leaves: see [Video](#video)"
Rows = Sequence[dict[str, Any]]


class Letters:
    """Letters for notes, in the order in which they are first asked for; each note has one."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def of(self, notes: Iterable[str]) -> str:
        """What stands behind the text of a cell or of a column's head that these notes are of."""
        found = [self._letters.setdefault(note, ascii_lowercase[len(self._letters)]) for note in notes]
        return f" <sup>{', '.join(sorted(found))}</sup>" if found else ""

    def meanings(self) -> str:
        """The notes behind their letters; empty where there is none."""
        return "; ".join(f"{letter}: {note}" for note, letter in self._letters.items())


def of_column(rows: Rows, name: str) -> list[str]:
    """Notes of a subject on every row on which it was timed."""
    timed = [notes(row["subjects"][name]) for row in rows if _is_timed(row["subjects"].get(name))]
    return [note for note in timed[0] if all(note in others for others in timed)]


def of_cell(rows: Rows, row: dict[str, Any], name: str) -> list[str]:
    """Notes of a subject on this row that are not of the whole column; why it was not timed, where it was asked for."""
    subject = row["subjects"].get(name)
    if not _is_timed(subject):
        return [] if subject is None or subject["note"] in ("", UNASKED) else [subject["note"]]
    return [note for note in notes(subject) if note not in of_column(rows, name)]


def of_difference(row: dict[str, Any]) -> list[str]:
    filled = row["case"] in FILLED or row["history"] is not None
    left = any(UNFILLED in subject["note"] for subject in row["subjects"].values())
    return [JUMPS] if filled and not left and row["dtype"] == "bf16" else []


def notes(subject: dict[str, Any]) -> list[str]:
    """Of a subject that was timed, but for how many frames it had before."""
    return [note for note in subject["note"].split("; ") if note and not BEFORE.fullmatch(note)]


def frames_before(row: dict[str, Any]) -> list[int]:
    """Of the subjects that were timed, the numbers of frames before the first that was; else what was asked for."""
    timed = [subject["note"].split("; ") for subject in row["subjects"].values() if _is_timed(subject)]
    found = {int(match[1]) for parts in timed for part in parts if (match := BEFORE.fullmatch(part))}
    return sorted(found) or ([] if row["history"] is None else [row["history"]])


def paragraphs(rows: Rows, letters: Letters) -> list[str]:
    """What is said below the table."""
    said = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    return [f"{text}." for text in [*map(_sentence, said), letters.meanings(), _not_timed(rows)] if text]


def _sentence(note: str) -> str:
    """With a capital, unless it begins with a name of the program."""
    return note if "_" in note.split()[0] else capitalised(note)


def _not_timed(rows: Rows) -> str:
    """Subjects without a column that were asked for, by the reason; empty where there is none."""
    by_reason: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row["subjects"]):
        subjects = [row["subjects"][name] for row in rows if name in row["subjects"]]
        reasons = dict.fromkeys(subject["note"] for subject in subjects if subject["note"] != UNASKED)
        if reasons and not any(map(_is_timed, subjects)):
            by_reason.setdefault("; ".join(reasons), []).append(name)
    listed = "; ".join(f"{' and '.join(names)} ({reason})" for reason, names in by_reason.items())
    return f"Not timed: {listed}" if listed else ""


def _is_timed(subject: dict[str, Any] | None) -> bool:
    return subject is not None and subject["median_s"] is not None
