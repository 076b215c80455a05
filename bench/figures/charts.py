"""Charts as small SVG files that can be read on a light and on a dark page, the same bytes whenever they are drawn."""

import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

# Of equal contrast with white and with the dark pages' near-black.
GREY = "#7a7a7a"
COLOURS = ("#8c8c8c", "#2f81f7", "#d29922", "#3fb950", "#db61a2")
STYLE: Any = {
    "svg.hashsalt": "sam2fast",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Chart(NamedTuple):
    """Numbers to be drawn: bars of each label, or lines over numbers."""

    title: str
    unit: str
    series: dict[str, list[float | None]]  # by subject, in the order of the places
    places: list[Any]  # labels of bars, or numbers on the x-axis
    x: str = ""  # what the numbers are; bars have none
    logarithmic: str = ""  # the axes that are, of lines: "", "x" or "xy"


def svg(chart: Chart) -> str:
    """The drawing; its description holds the numbers as JSON."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = draw(chart)
        buffer = io.StringIO()
        about = {"Title": chart.title, "Description": json.dumps(chart._asdict(), ensure_ascii=True)}
        figure.savefig(buffer, format="svg", transparent=True, metadata=about | {"Date": None, "Creator": None})
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def draw(chart: Chart) -> Any:
    """A figure of matplotlib, without a window."""
    from matplotlib.figure import Figure

    height = 2.6 if chart.x else 0.8 + 0.19 * len(chart.places) * (len(chart.series) + 0.8)
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    if chart.x:
        _lines(axes, chart)
    else:
        _bars(axes, chart)
    axes.set_title(chart.title, fontsize=10, loc="left")
    figure.legend(loc="outside lower left", ncols=len(chart.series), frameon=False, fontsize=8)
    return figure


def _bars(axes: Any, chart: Chart) -> None:
    thickness = 0.8 / len(chart.series)
    longest = max(value for values in chart.series.values() for value in values if value is not None)
    for i, (name, values) in enumerate(chart.series.items()):
        at = [place + (i + 0.5) * thickness - 0.4 for place in range(len(values))]
        axes.barh(at, [value or 0 for value in values], thickness * 0.92, color=COLOURS[i % len(COLOURS)], label=name)
        for y, value in zip(at, values, strict=True):
            if value is not None:
                axes.text(value + longest * 0.008, y, f"{value:.3g}", va="center", fontsize=7)
    axes.set_yticks(range(len(chart.places)), chart.places)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.1)
    axes.set_xlabel(chart.unit)


def _lines(axes: Any, chart: Chart) -> None:
    for i, (name, values) in enumerate(chart.series.items()):
        shown = [(x, y) for x, y in zip(chart.places, values, strict=True) if y is not None]
        axes.plot(*zip(*shown, strict=True), color=COLOURS[i % len(COLOURS)], label=name, marker="o", markersize=3)
    if "x" in chart.logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(chart.places, [f"{x:,}" for x in chart.places])
    if "y" in chart.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.unit)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)


def numbers(drawing: str) -> dict[str, Any]:
    """The JSON in a drawing's description."""
    from xml.etree import ElementTree

    found = ElementTree.fromstring(drawing).find(".//{http://purl.org/dc/elements/1.1/}description")
    return dict(json.loads(found.text or "{}")) if found is not None else {}


def rounded(values: Sequence[float | None], digits: int = 6) -> list[float | None]:
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]
