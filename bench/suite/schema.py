"""The form of a result file of the suite, checked before it is written and before it is read.

A file is ``{"date", "machine", "rows"}``. A row is one case at one setting, with every subject of one process:

* ``case``, ``size``, ``dtype``, ``image_size``, ``objects``, ``history`` name it; no two rows have the same six.
  ``objects`` is the number of objects, or of boxes; ``history`` of frames before the timed ones. Either may be null.
* ``subjects``: per subject ``samples_s`` in the order taken, ``median_s``, ``min_s``, ``max_s``, ``first_s`` (the first
  call, not among the samples), ``compile_s``, ``peak_mib``, ``note`` and ``path``; of latencies also ``p50_s``,
  ``p95_s`` and ``p99_s``; of what has parts ``parts_s``; in bfloat16 ``error``, how far the results that it was judged
  by are from those in fp32. One that was not timed has no samples, nulls, and a note that says why. ``path`` is which
  path the calls took: ``eager``, ``compiled``, ``recorded`` (every timed frame by the recorded steps of our video
  predictor), ``eager: `` and why it did not use them. It is empty where nothing ran, and older files have none.
* ``ratio``: per subject, official seconds over its own, pair by pair: median, min and max.
* ``difference``: per subject, how far its results are from the baseline's, as the case measures it.
* ``note``: what else has to be known.
"""

import datetime
import math
from collections.abc import Mapping, Set
from numbers import Real
from typing import Any

KEY = ("case", "size", "dtype", "image_size", "objects", "history")
FIGURES = ("median_s", "min_s", "max_s", "first_s", "compile_s", "peak_mib")
PERCENTILES = ("p50_s", "p95_s", "p99_s")
DTYPES = ("fp32", "bf16")


class SchemaError(ValueError):
    """A report that is not of this form."""


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row[name] for name in KEY)


def validate(report: Any) -> None:
    """Looks through a whole report.

    Raises:
        SchemaError: it is not of the form above; the message says where.
    """
    _expect(isinstance(report, Mapping), "the report", "an object", report)
    _fields("the report", report, {"date", "machine", "rows"})
    try:
        datetime.date.fromisoformat(report["date"])
    except (TypeError, ValueError):
        _expect(False, "date", "YYYY-MM-DD", report["date"])
    _expect(isinstance(report["machine"], Mapping), "machine", "an object", report["machine"])
    _expect(isinstance(report["rows"], list), "rows", "a list", report["rows"])
    seen = set()
    for number, row in enumerate(report["rows"]):
        validate_row(row, f"row {number}")
        _expect(key(row) not in seen, f"row {number}", "another row than those before", key(row))
        seen.add(key(row))


def validate_row(row: Any, where: str = "the row") -> None:
    """Looks through one row.

    Raises:
        SchemaError: as :func:`validate`.
    """
    _expect(isinstance(row, Mapping), where, "an object", row)
    _fields(where, row, {*KEY, "subjects", "ratio", "difference", "note"})
    for name in ("case", "size", "note"):
        _expect(isinstance(row[name], str), f"{where}: {name}", "text", row[name])
    _expect(row["dtype"] in DTYPES, f"{where}: dtype", " or ".join(DTYPES), row["dtype"])
    for name in ("image_size", "objects", "history"):
        allowed = _is_count(row[name]) or (row[name] is None and name != "image_size")
        _expect(allowed, f"{where}: {name}", "a positive integer", row[name])
    for name in ("subjects", "ratio", "difference"):
        _expect(isinstance(row[name], Mapping), f"{where}: {name}", "an object", row[name])
    _expect(bool(row["subjects"]), f"{where}: subjects", "at least one", row["subjects"])
    timed = {name for name, subject in row["subjects"].items() if _subject(f"{where}, {name}", subject)}
    for name, ratio in row["ratio"].items():
        _expect({name, "official"} <= timed, f"{where}: ratio", "subjects that were timed", name)
        _fields(f"{where}: ratio of {name}", ratio, {"median", "min", "max"})
        values = [ratio[x] for x in ("min", "median", "max")]
        ordered = all(map(_is_number, values)) and values == sorted(values)
        _expect(ordered, f"{where}: ratio of {name}", "min, median and max in order", ratio)
    for name, value in row["difference"].items():
        right = name in row["subjects"] and _is_number(value)
        _expect(right, f"{where}: difference of {name}", "the number of a subject", value)


def _subject(where: str, subject: Any) -> bool:
    """Checks one subject; whether it was timed."""
    _expect(isinstance(subject, Mapping), where, "an object", subject)
    _fields(where, subject, {"samples_s", *FIGURES, "note"}, {*PERCENTILES, "parts_s", "path", "error"})
    samples = subject["samples_s"]
    _expect(isinstance(samples, list) and all(map(_is_number, samples)), f"{where}: samples_s", "numbers", samples)
    _expect(isinstance(subject["note"], str), f"{where}: note", "text", subject["note"])
    _expect(isinstance(subject.get("path", ""), str), f"{where}: path", "text", subject.get("path"))
    for name in (*FIGURES, *({*PERCENTILES, "error"} & set(subject))):
        value = subject[name]
        _expect(value is None or _is_number(value), f"{where}: {name}", "a number or null", value)
    if not samples:
        _expect(subject["median_s"] is None and subject["note"] != "", where, "a note, as it was not timed", subject)
        return False
    spread = [subject[x] for x in ("min_s", "median_s", "max_s")]
    right = None not in spread and spread == sorted(spread) and [min(samples), max(samples)] == spread[::2]
    _expect(right, where, "min, median and max of the samples", spread)
    for name, values in subject.get("parts_s", {}).items():
        right = isinstance(values, list) and len(values) == len(samples)
        _expect(right, f"{where}: part {name!r}", "one value per sample", values)
    return True


def _fields(where: str, found: Mapping[str, Any], needed: Set[str], possible: Set[str] = frozenset()) -> None:
    missing, unknown = needed - set(found), set(found) - needed - possible
    _expect(not missing, where, f"the fields {sorted(missing)}", sorted(found))
    _expect(not unknown, where, f"no fields {sorted(unknown)}", sorted(found))


def _is_number(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x > 0


def _expect(right: bool, where: str, wanted: str, found: Any) -> None:
    if not right:
        raise SchemaError(f"{where}: expected {wanted}, got {found!r:.200}")
