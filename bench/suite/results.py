"""The result file of one device and day: rows are added as they come, and a row measured again replaces the old one."""

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

from suite.schema import key, validate, validate_row


class Results:
    """Merges rows into ``suite-<device>-<date>.json``; the file is whole at any time.

    Args:
        folder: where it lies.
        machine: see :func:`suite.machine.machine`; one with a ``gpu`` gets a file of that name.
        date: when the rows were measured, YYYY-MM-DD; today by default.

    Raises:
        SchemaError: the file is there and not of the suite's form.
    """

    def __init__(self, folder: Path, machine: dict[str, Any], date: str | None = None) -> None:
        today = date or datetime.date.today().isoformat()
        slug = re.sub(r"[^a-z0-9]+", "-", machine.get("gpu", "cpu").lower()).strip("-")
        self.path = folder / f"suite-{slug}-{today}.json"
        self.report: dict[str, Any] = {"date": today, "machine": machine, "rows": []}
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            validate(earlier)
            self.report["rows"] = earlier["rows"]
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """Takes up one row and writes the file.

        A row is replaced whole, since its subjects were timed in turn.

        Raises:
            SchemaError: the row is not of the suite's form; the file stays as it is.
        """
        validate_row(row)
        rows = self.report["rows"]
        places = [i for i, other in enumerate(rows) if key(other) == key(row)]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        partial = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            partial.write_text(json.dumps(self.report, indent=1) + "\n")
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
