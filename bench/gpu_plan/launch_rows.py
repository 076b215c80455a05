"""The launch table of a visit: the package's, with the rows that were tuned since."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_plan.records import Record


def stored(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The rows of the launch table that tuning has stored, with their ``op``."""
    tuned = (record["row"] for record in records if record["kind"] == "row" and record["part"] == "tune")
    return [row["stored"] for row in tuned if row.get("stored")]


def write_table(packaged: Path, path: Path, records: Iterable[Record]) -> bool:
    """Writes the table that the steps read and tuning changes; False where the disk has no room for it."""
    table = merged(json.loads(packaged.read_text(encoding="utf-8")), stored(records))
    try:
        path.write_text(text_of(table), encoding="utf-8")
    except OSError as error:
        print(f"the package's launch table is used, and tuning stores nothing: {error}", flush=True)
        return False
    return True


def merged(table: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The table with each row in place of the one for the same GPU, dtype and shape class."""
    result = dict(table)
    for row in rows:
        key = {name: row[name] for name in ("arch", "dtype", "shape")}
        others = [old for old in result[row["op"]] if any(old[name] != value for name, value in key.items())]
        result[row["op"]] = [*others, {**key, "meta": dict(row["meta"]), "options": dict(row["options"])}]
    return result


def text_of(table: dict[str, Any]) -> str:
    """JSON with a line per row."""
    ops = []
    for op, rows in table.items():
        lines = ",\n".join("    " + json.dumps(row) for row in rows)
        ops.append(f'  "{op}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(ops) + "\n}\n"
