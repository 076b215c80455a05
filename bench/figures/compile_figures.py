"""What compilation costs and gains, from files ``compile-modes-DEVICE-DATE.json``."""

from typing import Any

from figures.charts import Chart, rounded
from figures.results import Report, Results
from figures.text import machine, model, seconds, small, table


def compile_modes(results: Results) -> str:
    report = results.find("compile-modes")
    if report is None:
        return results.not_measured("compile-modes")
    header = ["way", "model", "dtype", "compiling", "until the first mask", "later masks", "fastest and slowest"]
    header.append("difference")
    lines = [
        [row["mode"], model(row["model"]), row["dtype"], seconds(row["compile_s"]), seconds(row["first_s"])]
        + [seconds(row["median_s"], 3), _spread(row["spread"]), _difference(row["difference"])]
        for row in report.data["rows"]
    ]
    source = f"Every row is in {results.link(report)}, from {machine(report.data['machine'])}."
    picture = results.picture("compile-modes", "Seconds until the first mask and of later ones")
    return "\n\n".join((picture, table(header, lines), results.paragraph(source)))


def compile_chart(report: Report) -> Chart:
    rows = report.data["rows"]
    series = {
        "until the first mask": rounded([row["first_s"] for row in rows]),
        "later masks": rounded([row["median_s"] for row in rows]),
    }
    places = [f"{model(row['model'])} {row['dtype']}, {row['mode']}" for row in rows]
    return Chart("Ways to run the image model", "seconds, less is better", series, places)


def _spread(spread: Any) -> str:
    """A share of the median, or the fastest and slowest in seconds."""
    if spread is None:
        return "–"
    if isinstance(spread, (int, float)):
        return f"{spread:.1%}"
    values = list(spread.values()) if isinstance(spread, dict) else list(spread)
    return f"{seconds(min(values), 3)} to {seconds(max(values), 3)}"


def _difference(value: Any) -> str:
    return "–" if value is None else small(float(value))
