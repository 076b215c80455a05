"""The result file of one device and day: rows are added as they come, and a row measured again replaces the old one."""

import datetime
import json
from pathlib import Path
from typing import Any

from reports import file_name, write_json

from suite.schema import key, validate, validate_row


class Results:
    """Merges rows into ``suite-<device>-<date>.json``; the file is written atomically.

    Args:
        folder: where it lies.
        machine: see :func:`suite.machine.machine`; one with a ``gpu`` gets a file of that name.
        date: when the rows were measured, YYYY-MM-DD; today by default.

    Raises:
        SchemaError: the file is there and not of the suite's form.
    """

    def __init__(self, folder: Path, machine: dict[str, Any], date: str | None = None) -> None:
        today = date or datetime.date.today().isoformat()
        self.path = folder / f"suite-{file_name(machine.get('gpu', 'cpu'))}-{today}.json"
        self.report: dict[str, Any] = {"date": today, "machine": machine, "rows": []}
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            validate(earlier)
            self.report["rows"] = earlier["rows"]

    def add(self, row: dict[str, Any]) -> None:
        """Takes up one row and writes the file.

        A row is replaced whole, since its subjects were timed in turn.

        Raises:
            SchemaError: the row is not of the suite's form; the file stays as it is.
        """
        validate_row(row)
        rows = self.report["rows"]
        place = next((i for i, other in enumerate(rows) if key(other) == key(row)), len(rows))
        rows[place : place + 1] = [row]
        write_json(self.path, self.report)
