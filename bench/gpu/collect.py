"""Takes the results of a visit to a GPU into ``bench/results``, and prints the configurations that tuning changed.

``python bench/gpu --collect DIR`` runs it; DIR is what ``--out`` named. Benchmarks of kernels go into
``<year>/kernels/<device>-<date>.json``, whole calls into ``<year>/calls/suite-<device>-<date>.json``; what was measured
again replaces what was there. Tuned configurations are printed: enter them into the ops' ``config``, with that file as
the reason. ``make figures`` then renews the documents.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports import file_name, write_json

from gpu.records import NAME, Record, read_records, stored

BENCH = Path(__file__).resolve().parents[1]
RESULTS = BENCH / "results"
# What tells rows of a part from each other; of other parts all rows are kept.
KEYS = {"micro": ("op", "shape", "dtype", "subject")}
ELSEWHERE = ("suite", "environment")


def collect(folder: Path, results: Path = RESULTS) -> list[Path]:
    """Writes everything a visit has found.

    Args:
        folder: of the visit.
        results: where figures go.

    Returns:
        The files that were written.

    Raises:
        SystemExit: the folder has no results, they do not say where they were measured, or are those of a rehearsal.
    """
    records = read_records(folder / NAME)
    found = next((r for r in reversed(records) if r["kind"] == "row" and r["part"] == "environment"), None)
    if found is None:
        raise SystemExit(f"{folder / NAME} does not say what it was measured on: its step 'environment' has not run")
    if found["row"]["rehearsal"]:
        raise SystemExit(f"{folder / NAME} is of a rehearsal; its times mean nothing")
    machine, date = found["row"]["machine"], found["row"]["date"]
    verdicts = [{name: r[name] for name in ("step", "verdict", "figure", "seconds")}
                for r in records if r["kind"] == "verdict"]  # fmt: skip
    # Parts that are not measured again stay as they are.
    path = results / date[:4] / "kernels" / f"{file_name(machine['device'])}-{date}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}
    parts = {**content["parts"], **_parts(records), "verdicts": verdicts}
    write_json(path, {**content, "date": date, "machine": machine, "parts": parts})
    written = [path]
    suite = [r["row"] for r in records if r["kind"] == "row" and r["part"] == "suite"]
    if suite:
        from suite.results import Results

        report = Results(results / date[:4] / "calls", machine, date)
        for row in suite:
            report.add(row)
        written.append(report.path)
    for row in stored(records):
        print(
            f"{row['op']}: config({row['arch']!r}, {row['dtype']!r}, {row['shape']!r}): {row['meta']}, {row['options']}"
        )
    return written


def _parts(records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """Rows by part, of each key the latest."""
    parts: dict[str, dict[Any, dict[str, Any]]] = {}
    for number, record in enumerate(records):
        if record["kind"] == "row" and record["part"] not in ELSEWHERE:
            key = tuple(record["row"].get(name) for name in KEYS.get(record["part"], ())) or number
            parts.setdefault(record["part"], {})[key] = record["row"]
    return {part: list(rows.values()) for part, rows in parts.items()}
