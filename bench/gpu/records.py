"""Results as they come, a line of JSON each, kept in memory too in case the disk is full; the table at the end; and the
launch configurations that a visit has tuned.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from figures import results as markdown
from reports import write_text

from gpu.steps import Step

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
    rows, counts = [], []
    for step in steps:
        found = verdicts.get(step.name, {"verdict": NOT_REACHED, "figure": "", "seconds": 0})
        cells = (step.name, found["verdict"], found["figure"], step.goal, f"{found['seconds']:.0f}")
        rows.append([cell.replace("|", "/").replace("\n", " ") for cell in cells])
        counts.append(found["verdict"].partition(":")[0])
    said = ", ".join(f"{counts.count(kind)} {kind}" for kind in dict.fromkeys(counts))
    text = markdown.table(("step", "verdict", "figure", "goal", "s"), rows) + f"\n\n{len(steps)} steps: {said}.\n"
    return text + (f"RESULTS WERE NOT WRITTEN: {records.problem}\n" if records.problem else "")


def stored(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The configurations that tuning has stored, with their ``op``."""
    tuned = (record["row"] for record in records if record["kind"] == "row" and record["part"] == "tune")
    return [row["stored"] for row in tuned if row.get("stored")]


def write_table(path: Path, records: Iterable[Record]) -> bool:
    """Writes the configurations that the steps use and tuning changes; False where the disk has no room for them."""
    try:
        path.write_text(text_of(merged({}, stored(records))), encoding="utf-8")
    except OSError as error:
        print(f"the package's configurations are used, and tuning stores nothing: {error}", flush=True)
        return False
    return True


def merged(table: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The table with each row in place of the one for the same GPU, dtype and shape class."""
    result = dict(table)
    for row in rows:
        key = {name: row[name] for name in ("arch", "dtype", "shape")}
        others = [old for old in result.get(row["op"], ()) if any(old[name] != value for name, value in key.items())]
        result[row["op"]] = [*others, {**key, "meta": dict(row["meta"]), "options": dict(row["options"])}]
    return result


def text_of(table: dict[str, Any]) -> str:
    """JSON with a line per row."""
    ops = []
    for op, rows in table.items():
        lines = ",\n".join("    " + json.dumps(row) for row in rows)
        ops.append(f'  "{op}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(ops) + "\n}\n" if ops else "{}\n"
