"""What the side-by-side programs measured on a CPU: images, videos, the encoder."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from figures.charts import Chart, rounded
from figures.results import Report, Results
from figures.text import counted, machine, model, seconds, small, table, times

# Cases of the suite that measure what these programs do, and the tables that they replace.
ENCODE, TRACK, PEAK = "image encode", "video steady frame", "peak memory"
PAIR = ("official", "sam2fast")


class Row(NamedTuple):
    """A case of the official package and ours, from either form of file."""

    size: str
    dtype: str
    image_size: int
    objects: int | None
    samples: int
    medians: dict[str, float]
    ratio: float
    peaks: dict[str, float] | None
    difference: float | None


def pairs(results: Results, kind: str, case: str) -> tuple[Report, list[Row]]:
    """Rows of the newest file: of the suite where it has the case, else of the kind's own."""
    suite = results.find("suite", lambda data: any(_is_pair(row, case) for row in data["rows"]))
    if suite is not None:
        peaks = {_setting(row): row for row in suite.data["rows"] if row["case"] == PEAK and row["history"] is None}
        chosen = [row for row in suite.data["rows"] if _is_pair(row, case)]
        return suite, [_of_suite(row, peaks.get(_setting(row)) if case == ENCODE else None) for row in chosen]
    report = results.newest(kind)
    return report, _rows_of(report)


def by_processor(results: Results, kind: str, case: str) -> list[tuple[Report, list[Row]]]:
    """:func:`pairs`, and those of the newest file of the kind's own from a processor with other vector units."""
    first = pairs(results, kind, case)
    capability = first[0].data["machine"].get("capability")
    other = results.find(kind, lambda data: data["machine"].get("capability") != capability)
    return [first] if other is None else [first, (other, _rows_of(other))]


def _rows_of(report: Report) -> list[Row]:
    return [_of_pair(row) for row in report.data["rows"] if "median_s" in row]


def _setting(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["size"], row["dtype"], row["image_size"]


def _is_pair(row: dict[str, Any], case: str) -> bool:
    """Both were timed; of videos, without a history that is given."""
    timed = [name for name, subject in row["subjects"].items() if subject["median_s"] is not None]
    return bool(
        row["case"] == case and row["history"] is None and set(PAIR) <= set(timed) and "sam2fast" in row["ratio"]
    )


def _of_suite(row: dict[str, Any], peak: dict[str, Any] | None) -> Row:
    subjects = {name: row["subjects"][name] for name in PAIR}
    found = {} if peak is None else {name: s["peak_mib"] for name, s in peak["subjects"].items() if name in PAIR}
    return Row(
        row["size"],
        row["dtype"],
        row["image_size"],
        row["objects"],
        len(subjects["sam2fast"]["samples_s"]),
        {name: subject["median_s"] for name, subject in subjects.items()},
        row["ratio"]["sam2fast"]["median"],
        found if len(found) == 2 and None not in found.values() else None,
        row["difference"].get("sam2fast"),
    )


def _of_pair(row: dict[str, Any]) -> Row:
    return Row(
        row["size"],
        row["dtype"],
        int(row["op"].split("x")[-1]),
        row.get("objects"),
        len(row["seconds"]["sam2fast"]),
        row["median_s"],
        row["ratio"]["median"],
        row.get("peak_mib"),
        row["error"],
    )


def _source(results: Results, report: Report) -> str:
    return f"Every sample is in {results.link(report)}, from {machine(report.data['machine'])}."


def _sides(rows: list[Row]) -> str:
    sides = sorted({row.image_size for row in rows}, reverse=True)
    return " and ".join(f"{side}×{side}" for side in sides)


def medians(rows: list[Row]) -> str:
    return medians_of(row.samples for row in rows)


def medians_of(runs: Iterable[int]) -> str:
    """Of how many runs figures are medians, the fewest and the most."""
    *fewer, most = sorted(set(runs))
    return f"medians of {fewer[0]} to {most}" if fewer else f"medians of {most}"


def _labels(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headers, and of each row its model and dtype, and the side where rows differ in it."""
    several = len({row.image_size for row in rows}) > 1
    header = ["model", "dtype", *(["side"] if several else [])]
    return header, [[model(row.size), row.dtype, *([f"{row.image_size}"] if several else [])] for row in rows]


def _figures(row: Row) -> list[str]:
    """Cells that tables of images and of videos share."""
    difference = "–" if row.difference is None else small(row.difference)
    return [*(seconds(row.medians[name]) for name in PAIR), f"**{times(row.ratio)}**", difference]


def set_image(results: Results) -> str:
    return "\n\n".join(_set_image(results, *found) for found in by_processor(results, "set-image", ENCODE))


def _set_image(results: Results, report: Report, rows: list[Row]) -> str:
    peaks = all(row.peaks for row in rows)
    header, labels = _labels(rows)
    header += ["official", "sam2fast", "ratio", "difference"]
    header += ["peak memory, official → sam2fast"] if peaks else []
    lines = []
    for label, row in zip(labels, rows, strict=True):
        line = [*label, *_figures(row)]
        if peaks and row.peaks:
            line.append(f"{row.peaks['official']:.0f} → {row.peaks['sam2fast']:.0f} MiB")
        lines.append(line)
    intro = (
        f"`set_image` at {_sides(rows)}, official package and sam2fast in turn in one process, same weights, "
        f"{medians(rows)} runs after a warm-up:"
    )
    source = _source(results, report)
    if peaks:
        source += " Peak memory is that of a process which loads one model and sets one image."
    return "\n\n".join((results.paragraph(intro), table(header, lines), results.paragraph(source)))


def video(results: Results) -> str:
    return "\n\n".join(_video(results, *found) for found in by_processor(results, "video", TRACK))


def _video(results: Results, report: Report, rows: list[Row]) -> str:
    header, labels = _labels(rows)
    header += ["objects", "official", "sam2fast", "ratio", "difference"]
    lines = [[*label, f"{row.objects}", *_figures(row)] for label, row in zip(labels, rows, strict=True)]
    intro = (
        f"Video at {_sides(rows)}, seconds per steady frame (seven memories full), both predictors in turn on the same "
        f"frames, {medians(rows)}:"
    )
    return "\n\n".join((results.paragraph(intro), table(header, lines), results.paragraph(_source(results, report))))


def long_video(results: Results) -> str:
    """One sentence."""
    suite = results.find("suite", lambda data: any(_is_long(row) for row in data["rows"]))
    if suite is not None:
        row = next(row for row in suite.data["rows"] if _is_long(row))
        official, ours = (row["subjects"][name]["peak_mib"] for name in PAIR)
        return (
            f"tracking {counted(row['objects'], 'object')} through {row['history']} frames with {model(row['size'])} "
            f"at {row['image_size']}×{row['image_size']} in {row['dtype']} peaks at {official:,.0f} MiB with the "
            f"official package and {ours:,.0f} MiB here, each in a process of its own "
            f"({results.link(suite, 'figures')})"
        )
    report = results.newest("video", lambda data: any("mib" in row for row in data["rows"]))
    row = next(row for row in report.data["rows"] if "mib" in row)
    frames, side = row["op"].split()[0], row["op"].split("x")[-1]
    official, ours = (row["mib"][name] for name in PAIR)
    objects = counted(row["objects"], "object")
    return (
        f"tracking {objects} through {frames} frames at image size {side} takes {official['seconds']:.0f} s and peaks "
        f"at {official['peak']:.0f} MiB with the official package, {ours['seconds']:.0f} s and {ours['peak']:.0f} MiB "
        f"here, each in a process of its own that holds {official['before']:.0f} and {ours['before']:.0f} MiB before "
        f"it opens the video ({results.link(report, 'figures')})"
    )


def _is_long(row: dict[str, Any]) -> bool:
    peaks = [row["subjects"].get(name, {}).get("peak_mib") for name in PAIR]
    return row["case"] == PEAK and row["history"] is not None and row["objects"] is not None and None not in peaks


def set_image_chart(results: Results) -> Chart:
    _, rows = pairs(results, "set-image", ENCODE)
    series = {name: rounded([row.medians[name] for row in rows]) for name in PAIR}
    return Chart(
        "set_image on a CPU", "seconds, less is better", series, [" ".join(label) for label in _labels(rows)[1]]
    )


def video_chart(results: Results) -> Chart:
    _, rows = pairs(results, "video", TRACK)
    series = {name: rounded([row.medians[name] for row in rows]) for name in PAIR}
    places = [f"{' '.join(label)}, {row.objects} obj." for label, row in zip(_labels(rows)[1], rows, strict=True)]
    return Chart("One steady frame of a video on a CPU", "seconds, less is better", series, places)


def encoder(results: Results) -> str:
    return encoder_table(results, results.newest("encoder"))


def encoder_table(results: Results, report: Report) -> str:
    header = [
        "model",
        "dtype",
        "batch",
        "official",
        "sam2fast",
        "ratio",
        "official compiled",
        "sam2fast compiled",
        "ratio",
    ]
    lines = []
    for row in report.data["rows"]:
        medians, ratio = row["median_s"], row["ratio"]
        lines.append(
            [model(row["size"]), row["dtype"], f"{row['batch']}"]
            + [seconds(medians["official"]), seconds(medians["sam2fast"]), f"**{times(ratio['eager'])}**"]
            + [seconds(medians["official compiled"])]
            + [seconds(medians["sam2fast compiled"]), times(ratio["compiled"])]
        )  # fmt: skip
    return table(header, lines) + "\n\n" + results.paragraph(_source(results, report))
