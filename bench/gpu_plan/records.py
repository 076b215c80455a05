"""Results as they come, a line of JSON each, kept in memory too in case the disk is full; and the table at the end."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpu_plan.steps import Step

Record = dict[str, Any]
NAME = "results.jsonl"
NOT_REACHED = "not reached"


class Records:
    """The results of one visit.

    Args:
        folder: where ``results.jsonl`` is written.
        earlier: records of an earlier visit, which this one goes on with.

    Attributes:
        all: every record.
        problem: why not all of them are in the file; None if they are.
    """

    def __init__(self, folder: Path, earlier: Iterable[Record] = ()) -> None:
        self._path = folder / NAME
        self.all: list[Record] = []
        self.problem: str | None = None
        self._written = self._size = 0  # records in the file, and its bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path.is_symlink():
                self._path.unlink(missing_ok=True)
        except OSError as error:
            self.problem = str(error)
        for record in earlier:
            self.add(record)

    def add(self, record: Record) -> None:
        """Keeps a record, and writes it with those that could not be written before."""
        self.all.append(record)
        self.write()

    def write(self) -> None:
        """Appends what is not in the file yet."""
        text = "".join(json.dumps(record) + "\n" for record in self.all[self._written :]).encode()
        try:
            with open(self._path, "ab", buffering=0) as file:
                if file.tell() > self._size:  # half of a line, from when the disk was full
                    file.truncate(self._size)
                view = memoryview(text)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
        except OSError as error:
            self.problem = str(error)
        else:
            self._written, self._size, self.problem = len(self.all), self._size + len(text), None

    def verdicts(self) -> dict[str, Record]:
        """The latest verdict of each step."""
        return {record["step"]: record for record in self.all if record["kind"] == "verdict"}

    def rows(self, step: str) -> list[Record]:
        """What a step has measured."""
        return [record for record in self.all if record["kind"] == "row" and record["step"] == step]


def read_records(path: Path) -> list[Record]:
    """The records of a file; a last line that was cut off is left out.

    Raises:
        SystemExit: it is no such file.
    """
    found: list[Record] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SystemExit(f"{path} cannot be read ({error}); expected the {NAME} of an earlier visit") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["kind"], record["step"]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise SystemExit(f"{path}, line {number}: expected a record of a step, got {line[:80]!r}") from None
        found.append(record)
    return found


def table(steps: Sequence[Step], records: Records) -> str:
    """Step, verdict, figure, goal and seconds of every step, as Markdown."""
    verdicts = records.verdicts()
    rows = [("step", "verdict", "figure", "goal", "s")]
    for step in steps:
        found = verdicts.get(step.name, {"verdict": NOT_REACHED, "figure": "", "seconds": 0})
        rows.append((step.name, found["verdict"], found["figure"], step.goal, f"{found['seconds']:.0f}"))
    rows.insert(1, ("---",) * 5)
    lines = ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    counts = [verdicts.get(step.name, {"verdict": NOT_REACHED})["verdict"].partition(":")[0] for step in steps]
    said = ", ".join(f"{counts.count(kind)} {kind}" for kind in dict.fromkeys(counts))
    lines += ["", f"{len(steps)} steps: {said}."]
    if records.problem:
        lines.append(f"RESULTS WERE NOT WRITTEN: {records.problem}")
    return "\n".join(lines) + "\n"
