"""Result files of the suite, and their form, which is checked before they are written and before they are read.

A file is ``{"date", "machine", "rows"}``. A row is one case at one setting, with every subject of one process:

* ``case``, ``size``, ``dtype``, ``image_size``, ``objects``, ``history`` name it; no two rows have the same six.
  ``objects`` is the number of objects, or of boxes; ``history`` of frames before the timed ones. Either may be null.
* ``subjects``: per subject ``samples_s`` in the order taken, ``median_s``, ``min_s``, ``max_s``, ``first_s`` (the first
  call, not among the samples), ``compile_s``, ``peak_mib``, ``note`` and ``path``; of latencies also ``p50_s``,
  ``p95_s`` and ``p99_s``; ``host_s``, the median of the calling thread's processor time, in which a wait for the GPU
  counts if it spins; in bfloat16 ``error``, how far the results that it was judged by are from those in fp32. Files
  before December 2026 have ``host_s`` of throughput alone, by the wall clock until the last frame was asked for.
  Older files have ``parts_s`` of cold starts. One that was not timed has no samples, nulls, and a note that says why.
  ``path`` is which path the calls took: ``eager``, ``compiled``, ``recorded`` (every timed frame by the recorded
  steps of our video predictor), ``eager: `` and why it did not use them. It is empty where nothing ran, and older files
  have none.
* ``ratio``: per subject, official seconds over its own, pair by pair: median, min and max.
* ``difference``: per subject, how far its results are from the baseline's, as the case measures it.
* ``note``: what else has to be known.

Rows of visits to a GPU have more fields, which :data:`ROW_ALSO` names: ``iou``, per subject and object the least IoU
with the baseline's masks; ``scores`` where masks differ, per subject the IoUs that the decoder predicts for its masks;
``clocks`` while the row was timed; ``device``, a profile of our calls with the busy time of each stream, overlap and
encodes a frame; ``commit``; ``verdict``, of a step that did not pass; and ``torch_ops``, the ops that torch computed,
since the parity of their kernels failed. ``peak_mib`` is then the memory that the subject has allocated, with its
model, while others have theirs. The memory in which CUDA graphs compute is in it only while they are recorded;
``graphs_mib`` of ours is what torch keeps for all that the process has recorded until then.
"""

import datetime
import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from reports import file_name, write_json

KEY = ("case", "size", "dtype", "image_size", "objects", "history")
FIGURES = ("median_s", "min_s", "max_s", "first_s", "compile_s", "peak_mib")
PERCENTILES = ("p50_s", "p95_s", "p99_s")
SUBJECT_ALSO = ("host_s", "error", "graphs_mib")
DTYPES = ("fp32", "bf16")
ROW_ALSO = {"iou", "scores", "clocks", "device", "commit", "verdict", "torch_ops"}


class SchemaError(ValueError):
    """A report that is not of this form."""


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the fields that name a row."""
    return tuple(row[name] for name in KEY)


def validate(report: Mapping[str, Any]) -> None:
    """Looks through a whole report.

    Raises:
        SchemaError: it is not of the form above; the message says where.
    """
    _fields("the report", report, {"date", "machine", "rows"})
    keys = [key(row) for row in report["rows"]]
    for number, row in enumerate(report["rows"]):
        validate_row(row, f"row {number}")
        _expect(keys.index(key(row)) == number, f"row {number}", "another row than those before", key(row))


def validate_row(row: Mapping[str, Any], where: str = "the row") -> None:
    """Looks through one row.

    Raises:
        SchemaError: as :func:`validate`.
    """
    _fields(where, row, {*KEY, "subjects", "ratio", "difference", "note"}, ROW_ALSO)
    _expect(row["dtype"] in DTYPES, f"{where}: dtype", " or ".join(DTYPES), row["dtype"])
    _expect(bool(row["subjects"]), f"{where}: subjects", "at least one", row["subjects"])
    for name, subject in row["subjects"].items():
        _subject(f"{where}, {name}", subject)
    timed = {name for name, subject in row["subjects"].items() if subject["samples_s"]}
    for name in row["ratio"]:
        _expect({name, "official"} <= timed, f"{where}: ratio", "subjects that were timed", name)
    _expect(set(row["difference"]) <= set(row["subjects"]), f"{where}: difference", "subjects", row["difference"])
    _numbers(f"{where}: difference", row["difference"])
    for name, ious in row.get("iou", {}).items():
        _numbers(f"{where}: iou of {name}", dict(enumerate(ious)))


def _subject(where: str, subject: Mapping[str, Any]) -> None:
    _fields(where, subject, {"samples_s", *FIGURES, "note"}, {*PERCENTILES, *SUBJECT_ALSO, "parts_s", "path"})
    _numbers(where, {name: subject[name] for name in subject if name in (*PERCENTILES, *SUBJECT_ALSO)})
    _numbers(where, {name: subject[name] for name in FIGURES if subject[name] is not None})
    said = subject["median_s"] is None and subject["note"] != ""
    _expect(bool(subject["samples_s"]) or said, where, "a note, as it was not timed", subject)


def _fields(where: str, found: Mapping[str, Any], needed: Set[str], possible: Set[str] = frozenset()) -> None:
    _expect(needed <= set(found) <= needed | possible, where, f"the fields {sorted(needed)}", sorted(found))


def _numbers(where: str, found: Mapping[str, Any]) -> None:
    for name, x in found.items():
        _expect(isinstance(x, (int, float)) and math.isfinite(x), f"{where}: {name}", "a number", x)


def _expect(right: bool, where: str, wanted: str, found: Any) -> None:
    if not right:
        raise SchemaError(f"{where}: expected {wanted}, got {found!r:.200}")


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
