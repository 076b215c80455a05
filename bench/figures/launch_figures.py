"""How kernels are launched: the rows of the table in the package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures.results import Results
from figures.text import table

LAUNCH_TABLE = Path(__file__).resolve().parents[2] / "kernels" / "launch_table.json"


def launches(op: str) -> Callable[[Results], str]:
    """A table of one op; rows that differ in the dtype alone are one."""

    def section(results: Results) -> str:
        merged: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for row in json.loads(LAUNCH_TABLE.read_text(encoding="utf-8"))[op]:
            key = json.dumps([row["arch"], row["shape"], row["meta"], row["options"]])
            merged.setdefault(key, (row, []))[1].append(row["dtype"])
        names = list(dict.fromkeys(name for row, _ in merged.values() for name in row["meta"]))
        rows = [
            [_any(row["arch"]), ", ".join(map(_any, dtypes)), _any(row["shape"])]
            + [str(row["meta"].get(name, "")) for name in names]
            + [str(row["options"]["num_warps"]), str(row["options"].get("num_stages", "Triton's"))]
            for row, dtypes in merged.values()
        ]
        return table(["GPU", "dtype", "shape", *(f"`{name}`" for name in names), "warps", "stages"], rows)

    return section


def _any(name: str) -> str:
    return "any" if name == "*" else name
