"""How the time of a frame grows with objects and history, from files of ``bench/curves.py``."""

from typing import Any

from figures.charts import Chart, rounded
from figures.results import Report, Results
from figures.text import machine, seconds, table, times

CURVES = {"objects": "objects in the video", "history": "frames tracked before"}
PAIR = ("official", "sam2fast")


def curves(results: Results) -> str:
    report = results.find("curves")
    return results.not_measured("curves") if report is None else curve_tables(results, report, "curves")


def many_objects(results: Results) -> str:
    """A piece of a sentence: the least and the largest ratio over the numbers of objects."""
    report = results.find("curves")
    if report is None:
        return "how much faster than the official package that is has not been measured yet"
    rows = _points(report, "objects")
    ratios, side = [row["ratio"]["sam2fast"]["median"] for row in rows], rows[0]["image_size"]
    objects, about = [row["objects"] for row in rows], report.data["machine"]
    vectors = f" with {about['capability']}" if "capability" in about else ""
    return (
        f"a frame with {min(objects)} to {max(objects)} objects is done {min(ratios):.2f} to {max(ratios):.2f} times "
        f"as fast as by the official package (tiny at {side}×{side} in fp32, {about['cpu']}{vectors}; "
        f"{results.link(report, 'samples')})"
    )


def curve_tables(results: Results, report: Report, prefix: str) -> str:
    parts = []
    for curve, over in CURVES.items():
        rows = _points(report, curve)
        if not rows:
            continue
        parts += [results.picture(f"{prefix}-{curve}", f"Time of a frame by {over}"), _table(rows, curve, over)]
    side, before = report.data["rows"][0]["image_size"], {row["history"] for row in _points(report, "objects")}
    text = f"The tiny model at {side}×{side} in fp32, medians of steady frames with the fastest and slowest. "
    if before:
        text += f"Frames with many objects have {max(before)} tracked before them. "
    text += "Most frames of a history are copies of the results of a few that were tracked (`bench/curves.py`). "
    text += f"Every sample is in {results.link(report)}, from {machine(report.data['machine'])}."
    parts.append(results.paragraph(text))
    return "\n\n".join(parts)


def curve_charts(report: Report, prefix: str) -> dict[str, Chart]:
    """Charts by the names that :func:`curve_tables` refers to."""
    charts = {}
    for curve, over in CURVES.items():
        rows = _points(report, curve)
        if rows:
            series = {name: rounded([row["subjects"][name]["median_s"] for row in rows]) for name in PAIR}
            places = [row[curve] for row in rows]
            # Time grows with objects, in proportion at best, and should not with history.
            axes = "xy" if curve == "objects" else "x"
            charts[f"{prefix}-{curve}"] = Chart("Time of a frame", "seconds", series, places, over, axes)
    return charts


def _points(report: Report, curve: str) -> list[dict[str, Any]]:
    return [row for row in report.data["rows"] if row["curve"] == curve]


def _table(rows: list[dict[str, Any]], curve: str, over: str) -> str:
    grows = all("growth_mib" in row for row in rows)
    header = [over, *PAIR, "ratio", *(["the history's memory, official and ours"] if grows else [])]
    lines = []
    for row in rows:
        line = [f"{row[curve]:,}", *(_time(row["subjects"][name]) for name in PAIR)]
        line.append(f"**{times(row['ratio']['sam2fast']['median'])}**")
        if grows:
            line.append(" and ".join(_mib(row["growth_mib"][name]["resident"]) for name in PAIR))
        lines.append(line)
    return table(header, lines)


def _mib(grown: float) -> str:
    return f"{grown:,.0f} MiB" if grown >= 5 else "under 5 MiB"  # which is what a process varies by


def _time(subject: dict[str, Any]) -> str:
    return f"{seconds(subject['median_s'])} ({seconds(subject['min_s'])} to {seconds(subject['max_s'])})"
