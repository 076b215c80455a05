"""Takes the results of a visit to a GPU into ``bench/results``.

``python bench/gpu --collect DIR`` runs it; DIR is ``out/gpu`` or the folder that ``--out`` named. Benchmarks of kernels
go into ``<year>/kernels/<device>-<date>.json``, whole calls into ``<year>/calls/suite-<device>-<date>.json``. Rows get
the commit, the clocks of their step if they have none of their own, and the verdict of a step that did not pass. A row
that was measured again replaces the one before, unless its step timed out and the other's did not. ``make figures``
then renews the documents.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports import file_name, write_json

from gpu.records import NAME, PASSED, UNFINISHED, Record, read_records
from gpu.runner import timed_out

BENCH = Path(__file__).resolve().parents[1]
RESULTS = BENCH / "results"
# Fields that tell rows of a part from each other; of other parts all rows are kept.
KEYS = {"micro": ("op", "shape", "dtype", "subject"), "sentences": ("op", "sentence")}
ELSEWHERE = ("suite", "environment")
CUT_OFF = "FAILED: timed out with the visit"


def collect(folder: Path, results: Path = RESULTS) -> list[Path]:
    """Writes everything a visit has found.

    Args:
        folder: folder of the visit.
        results: where figures go.

    Returns:
        The files that were written.

    Raises:
        SystemExit: If the folder has no results, or they do not say where they were measured, or are of a rehearsal,
            or of several devices.
    """
    records = read_records(folder / NAME)
    environments = [r["row"] for r in records if r["kind"] == "row" and r["part"] == "environment"]
    if not environments:
        raise SystemExit(f"{folder / NAME} does not say what it was measured on: its step 'environment' has not run")
    if environments[-1]["rehearsal"]:
        raise SystemExit(f"{folder / NAME} is of a rehearsal; its times mean nothing")
    if len(devices := {row["machine"]["device"] for row in environments}) > 1:
        raise SystemExit(f"{folder / NAME} has results of {' and '.join(sorted(devices))}; expected one device")
    machine, date = environments[-1]["machine"], environments[-1]["date"]
    every = sorted(_rows(records, machine["commit"]), key=lambda record: not timed_out(record["row"]))
    verdicts = [{name: r[name] for name in ("step", "verdict", "figure", "seconds")}
                for r in records if r["kind"] == "verdict"]  # fmt: skip
    # Parts that are not measured again stay as they are.
    path = results / date[:4] / "kernels" / f"{file_name(machine['device'])}-{date}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}
    parts = {**content["parts"], **_parts(every), "verdicts": verdicts}
    write_json(path, {**content, "date": date, "machine": machine, "parts": parts})
    written = [path]
    suite = [record["row"] for record in every if record["part"] == "suite"]
    if suite:
        from suite.results import Results

        report = Results(results / date[:4] / "calls", machine, date)
        for row in suite:
            report.add(row)
        written.append(report.path)
    return written


def _rows(records: Sequence[Record], commit: str | None) -> list[Record]:
    """Returns the records of rows in order, with the fields that collecting adds. A step may have run several times."""
    found: list[Record] = []
    for at, record in enumerate(records):
        if record["kind"] != "row":
            continue
        later = [other for other in records[at:] if other["step"] == record["step"]]
        end = next((i for i, other in enumerate(later) if other["kind"] == "verdict"), len(later))
        verdict = later[end]["verdict"] if end < len(later) else CUT_OFF
        clocks = [other["row"] for other in later[:end] if other.get("part") == "clocks"]
        more = {"commit": commit} | ({"clocks": clocks[0]} if clocks else {})
        more |= {} if verdict.startswith((PASSED, UNFINISHED)) else {"verdict": verdict}
        found.append({**record, "row": {**more, **record["row"]}})
    return found


def _parts(records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """Sorts rows by part, and keeps the latest of each key."""
    parts: dict[str, dict[Any, dict[str, Any]]] = {}
    for number, record in enumerate(records):
        if record["part"] not in ELSEWHERE:
            key = tuple(record["row"].get(name) for name in KEYS.get(record["part"], ())) or number
            parts.setdefault(record["part"], {})[key] = record["row"]
    return {part: list(rows.values()) for part, rows in parts.items()}
