"""Results as they come, a line of JSON each, kept in memory too in case the disk is full; and the table at the end."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reports import write_text

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
        self.all: list[Record] = list(earlier)
        self.problem: str | None = None
        self.write()

    def add(self, record: Record) -> None:
        """Keeps a record, and writes the file."""
        self.all.append(record)
        self.write()

    def write(self) -> None:
        """Writes all of them atomically; without room for them, the file keeps what it has."""
        try:
            write_text(self._path, "".join(json.dumps(record) + "\n" for record in self.all))
            self.problem = None
        except OSError as error:
            self.problem = str(error)

    def verdicts(self) -> dict[str, Record]:
        """The latest verdict of each step."""
        return {record["step"]: record for record in self.all if record["kind"] == "verdict"}

    def rows(self, step: str) -> list[Record]:
        """What a step has measured."""
        return [record for record in self.all if record["kind"] == "row" and record["step"] == step]


def read_records(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        SystemExit: it is no such file.
    """
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read ({error}); expected the {NAME} of an earlier visit") from None
    if any(not {"kind", "step"} <= set(record) for record in found):
        raise SystemExit(f"{path}: expected a record of a step in each line")
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
