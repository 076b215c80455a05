"""Counts the items that a command leaves out, by reason, for one note and for JSON."""

from typing import Any

from sam2fast.cli.reporting import emit
from sam2fast.cli.user_errors import print_note


class LeftOut:
    """Counts of left-out items by reason, with the name of the first item for each reason."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}

    def add(self, what: str, why: str, first: object, count: int = 1) -> None:
        """Counts items of the type ``what``, a singular noun, with one reason. ``first`` names the first item."""
        key = what, " ".join(why.split())
        self._counts[key] = self._counts.get(key, 0) + count
        self._first.setdefault(key, str(first))

    def add_all(self, other: "LeftOut") -> None:
        """Adds the counts of another record, such as the record of a worker process."""
        for (what, why), count in other._counts.items():
            self.add(what, why, other._first[what, why], count)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Returns a text such as ``2 boxes (the box has no area; first: a.txt, line 3)``."""
        entries = []
        for (what, why), count in self._counts.items():
            plural = "" if count == 1 else "es" if what.endswith("x") else "s"
            name = self._first[what, why]
            entries.append(f"{count} {what}{plural} ({why}; {'first: ' if count > 1 else ''}{name})")
        return ", ".join(entries)

    def as_json(self) -> list[dict[str, Any]]:
        """Returns a list of ``{"what", "why", "count", "first"}``, the value of ``left_out`` in ``--json``."""
        return [
            {"what": what, "why": why, "count": count, "first": self._first[what, why]}
            for (what, why), count in self._counts.items()
        ]

    def report(self) -> None:
        """If items were left out, prints one note, and with ``--jsonl`` one line. Call this method once, at the end."""
        if self:
            print_note(f"left out: {self}")
            emit({"left_out": self.as_json()})
