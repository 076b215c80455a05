"""Files in the suite's form: one table and one chart for each case."""

import re
from collections.abc import Sequence
from typing import Any

from figures import case_notes
from figures.charts import Chart, rounded
from figures.results import Report, Results
from figures.text import capitalised, machine, model, seconds, small, table, times

# What names a row besides its case, and how the column is called.
SETTINGS = {"size": "model", "dtype": "dtype", "image_size": "side", "objects": "objects", "history": "frames before"}
PEAK = "peak memory"
Rows = Sequence[dict[str, Any]]


def suite(results: Results) -> str:
    report = results.find("suite")
    return results.not_measured("suite") if report is None else suite_tables(results, report, "suite")


def transformers(results: Results) -> str:
    report = results.find("transformers")
    return results.not_measured("transformers") if report is None else suite_tables(results, report, "transformers")


def suite_gpus(results: Results) -> list[Report]:
    """The newest file of each GPU."""
    found: dict[str, Report] = {}
    while (report := results.find("suite-gpu", lambda data: data["machine"]["gpu"] not in found)) is not None:
        found[report.data["machine"]["gpu"]] = report
    return [found[name] for name in sorted(found)]


def suite_tables(results: Results, report: Report, prefix: str, level: str = "###") -> str:
    """Every case of one file, under headings of this level."""
    parts, charts = [], suite_charts(report, prefix, "")
    for case, rows in cases(report).items():
        name, heading = f"{prefix}-{slug(case)}", capitalised(case)
        letters = case_notes.Letters()
        parts += [f"{level} {heading}", results.picture(name, heading) if name in charts else ""]
        parts += [case_table(rows, letters), *map(results.paragraph, case_notes.paragraphs(rows, letters))]
        parts.append(results.paragraph(paths(rows)))
    parts.append(
        results.paragraph(f"Every sample is in {results.link(report)}, from {machine(report.data['machine'])}.")
    )
    return "\n\n".join(part for part in parts if part)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cases(report: Report) -> dict[str, Rows]:
    """Rows by case, in the order in which they come."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in report.data["rows"]:
        found.setdefault(row["case"], []).append(row)
    return dict(found)


def case_table(rows: Rows, letters: case_notes.Letters) -> str:
    """Medians with the fastest and slowest sample, ratios, differences, and what there is of first calls and memory.

    Subjects that were timed in no row have no column; ``letters`` gets the notes of cells and columns.
    """
    shown = _settings(rows)
    subjects = _timed(rows)
    compared = [name for name in subjects if any(name in row["ratio"] for row in rows)]
    differing = [name for name in subjects if any(name in row["difference"] for row in rows)]
    header = ["frames" if (name, rows[0]["case"]) == ("history", PEAK) else SETTINGS[name] for name in shown]
    header += [f"{name}{letters.of(case_notes.of_column(rows, name))}" for name in subjects]
    header += [f"ratio of {name}" if len(compared) > 1 else "ratio" for name in compared]
    header += [f"difference of {name}" if len(differing) > 1 else "difference" for name in differing]
    peaks = any(subject["peak_mib"] is not None for row in rows for subject in row["subjects"].values())
    header += [f"peak MiB, {' / '.join(subjects)}"] if peaks else []
    tails = any("p99_s" in subject for row in rows for subject in row["subjects"].values())
    header += [f"95 and 99 of 100 within, {' / '.join(subjects)}"] if tails else []
    lines = []
    for row in rows:
        line = [_setting(row, name) for name in shown]
        line += [
            f"{_time(row['subjects'].get(name))}{letters.of(case_notes.of_cell(rows, row, name))}" for name in subjects
        ]
        line += [_ratio(row["ratio"].get(name)) for name in compared]
        line += [_difference(row, name, letters) for name in differing]
        if peaks:
            line.append(" / ".join(_peak(row["subjects"].get(name)) for name in subjects))
        if tails:
            line.append(" / ".join(_tail(row["subjects"].get(name)) for name in subjects))
        lines.append(line)
    return table(header, lines)


def paths(rows: Rows) -> str:
    """Which path the calls of each subject took; nothing where the file does not say."""
    found = {}
    for name in _timed(rows):
        subjects = [row["subjects"][name] for row in rows if name in row["subjects"]]
        taken = dict.fromkeys(subject.get("path", "") for subject in subjects if subject["median_s"] is not None)
        found[name] = " or ".join(path for path in taken if path)
    listed = "; ".join(f"{name} {path}" for name, path in found.items() if path)
    return f"Path taken: {listed}." if listed else ""


def case_chart(case: str, rows: Rows, where: str) -> Chart | None:
    """Medians of all subjects; none where nothing was timed."""
    subjects = _subjects(rows)
    series = {name: rounded([_median(row["subjects"].get(name)) for row in rows]) for name in subjects}
    series = {name: values for name, values in series.items() if any(value is not None for value in values)}
    if not series:
        return None
    given = [name for name in SETTINGS if any(row[name] is not None for row in rows)]
    differing = [name for name in given if len({row[name] for row in rows}) > 1] or ["size", "dtype"]
    places = [" ".join(_place(name, row[name]) for name in differing if row[name] is not None) for row in rows]
    return Chart(f"{capitalised(case)}, {where}", "seconds, less is better", series, places)


def suite_charts(report: Report, prefix: str, where: str) -> dict[str, Chart]:
    """Charts by the names that :func:`suite_tables` refers to."""
    drawn = {f"{prefix}-{slug(case)}": case_chart(case, rows, where) for case, rows in cases(report).items()}
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _settings(rows: Rows) -> list[str]:
    """Columns of which some row has something."""
    return [name for name in SETTINGS if any(_setting(row, name) for row in rows)]


def _setting(row: dict[str, Any], name: str) -> str:
    if name == "size":
        return model(row["size"])
    if name == "history":
        return " or ".join(map(_plain, case_notes.frames_before(row)))
    return _plain(row[name])


def _timed(rows: Rows) -> list[str]:
    return [name for name in _subjects(rows) if any(_median(row["subjects"].get(name)) is not None for row in rows)]


def _subjects(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["subjects"]))


def _median(subject: dict[str, Any] | None) -> float | None:
    return None if subject is None else subject["median_s"]


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else f"{value}"


def _place(name: str, value: Any) -> str:
    return {"size": model(str(value)), "objects": f"{value} obj.", "history": f"after {value}"}.get(name, f"{value}")


def _time(subject: dict[str, Any] | None) -> str:
    if subject is None or subject["median_s"] is None:
        return "–"
    if len(subject["samples_s"]) == 1:
        return seconds(subject["median_s"])
    fastest, slowest = seconds(subject["min_s"]), seconds(subject["max_s"])
    if fastest.split()[1] == slowest.split()[1]:
        fastest = fastest.split()[0]
    return f"{seconds(subject['median_s'])} ({fastest}–{slowest})"


def _ratio(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "–"
    spread = f" ({ratio['min']:.2f}–{ratio['max']:.2f})" if ratio["min"] < ratio["max"] else ""
    return f"**{times(ratio['median'])}**{spread}"


def _difference(row: dict[str, Any], name: str, letters: case_notes.Letters) -> str:
    value = row["difference"].get(name)
    return "–" if value is None else f"{small(value)}{letters.of(case_notes.of_difference(row))}"


def _peak(subject: dict[str, Any] | None) -> str:
    return "–" if subject is None or subject["peak_mib"] is None else f"{subject['peak_mib']:,.0f}"


def _tail(subject: dict[str, Any] | None) -> str:
    if subject is None or subject.get("p99_s") is None:
        return "–"
    return f"{seconds(subject['p95_s'])}, {seconds(subject['p99_s'])}"
