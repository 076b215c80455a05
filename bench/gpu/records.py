"""Results as they come, a line of JSON each, kept in memory too in case the disk is full; and the table at the end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import results as markdown
from reports import write_text

from gpu.steps import Step

Record = dict[str, Any]
NAME = "results.jsonl"
NOT_REACHED, PASSED, UNFINISHED = "not reached", "passed", "unfinished"


class Records:
    """Keeps the results of one visit.

    Args:
        folders: where ``results.jsonl`` is written. A file in the first one is gone on with.

    Attributes:
        paths: the files.
        all: every record.
        problem: why not all of them are in the file; None if they are.
    """

    def __init__(self, *folders: Path) -> None:
        self.paths = [folder / NAME for folder in folders]
        self.all: list[Record] = read_records(self.paths[0]) if self.paths[0].exists() else []
        self.problem: str | None = None
        self.write()

    def add(self, record: Record) -> None:
        """Keeps a record, and writes the file."""
        self.all.append(record)
        self.write()

    def write(self) -> None:
        """Writes all of them atomically; without room for them, the file keeps what it has."""
        try:
            for path in self.paths:
                write_text(path, "".join(json.dumps(record) + "\n" for record in self.all))
            self.problem = None
        except OSError as error:
            self.problem = str(error)

    def verdicts(self) -> dict[str, Record]:
        """Returns the latest verdict of each step."""
        return {record["step"]: record for record in self.all if record["kind"] == "verdict"}


def unfinished_rows(records: Sequence[Record], step: str) -> list[Record]:
    """Returns the records of rows that a step sent in unfinished runs since it last passed."""
    found: list[Record] = []
    run: list[Record] = []
    for record in records:
        if record["step"] == step:
            run.append(record)
            if record["kind"] == "verdict":
                if record["verdict"] == PASSED:
                    found = []
                elif record["verdict"].startswith(UNFINISHED):
                    found += run[:-1]
                run = []
    return found


def read_records(path: Path) -> list[Record]:
    """Reads the records of a file.

    Raises:
        SystemExit: If it is no such file.
    """
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read ({error}); expected the {NAME} of an earlier visit") from None
    if any(not {"kind", "step"} <= set(record) for record in found):
        raise SystemExit(f"{path}: expected a record of a step in each line")
    return found


def table(steps: Sequence[Step], records: Records) -> str:
    """Writes step, verdict, figure, question and seconds of every step as Markdown."""
    verdicts = records.verdicts()
    rows, counts = [], []
    for step in steps:
        found = verdicts.get(step.name, {"verdict": NOT_REACHED, "figure": "", "seconds": 0})
        cells = (step.name, found["verdict"], found["figure"], step.question, f"{found['seconds']:.0f}")
        rows.append([cell.replace("|", "/").replace("\n", " ") for cell in cells])
        counts.append(found["verdict"].partition(":")[0])
    said = ", ".join(f"{counts.count(kind)} {kind}" for kind in dict.fromkeys(counts))
    text = markdown.table(("step", "verdict", "figure", "question", "s"), rows) + f"\n\n{len(steps)} steps: {said}.\n"
    return text + (f"RESULTS WERE NOT WRITTEN: {records.problem}\n" if records.problem else "")
