"""What was measured on CPUs, in a table that is read at a glance; docs/benchmarks.md has the tables behind it."""

import statistics
from collections.abc import Iterable

from figures import case_notes
from figures.mask_figures import photographs, runs_of
from figures.measured import ENCODE, PAIR, TRACK, Row, by_processor, medians
from figures.results import Report, Results
from figures.text import count, counted, seconds, table, times

SIZE, DTYPE, SIDE = "t", "fp32", 1024
NOT_MEASURED = "–"
Measured = list[tuple[Report, list[Row]]]


def summary(results: Results) -> str:
    """SAM 2 tiny on images, frames of videos and whole photographs; a column for each processor."""
    images, videos = by_processor(results, "set-image", ENCODE), by_processor(results, "video", TRACK)
    masks = results.newest("automatic-masks")
    timed = images + videos
    processors = sorted({_processor(report) for report in (masks, *(report for report, _ in timed))})
    lines = [["an image", *_cells(images, processors, None)]]
    for objects in sorted({row.objects for _, rows in videos for row in rows if row.objects and _is_shown(row)}):
        lines.append([f"a frame of a video, {counted(objects, 'object')}", *_cells(videos, processors, objects)])
    lines.append(["all masks of a photograph", *(_masks(masks, processor) for processor in processors)])
    shown = [row for _, rows in timed for row in rows if _is_shown(row)]
    links = _links(results, [*(report for report, _ in timed), masks])
    about = (
        f"SAM 2 tiny in {DTYPE} at {SIDE}×{SIDE}: {medians(shown)} runs, official package and sam2fast in turn in one "
        f"process with the same weights, on {_threads(report for report, _ in timed)}; all masks of a photograph "
        f"{runs_of(photographs(masks, DTYPE))} on {_threads([masks])}, the official one's non-maximum suppression in "
        f"Python in place of torchvision's.{_altered(videos)} Samples: {links}."
    )
    return table(["official → sam2fast", *processors], lines) + "\n\n" + results.paragraph(about)


def _processor(report: Report) -> str:
    about = report.data["machine"]
    return f"{about['cpu']} with {about['capability']}" if "capability" in about else str(about["cpu"])


def _threads(reports: Iterable[Report]) -> str:
    """Every number of threads that there was."""
    *fewer, most = sorted({report.data["machine"]["threads"] for report in reports})
    return " or ".join([*map(count, fewer), counted(most, "thread")])


def _altered(videos: Measured) -> str:
    """A sentence on what the official predictor is given to be compared with, in the words of the result files."""
    rows = [row for report, _ in videos for row in report.data["rows"] if row.get("case") == TRACK]
    shown = [row for row in rows if (row["size"], row["dtype"], row["image_size"]) == (SIZE, DTYPE, SIDE)]
    notes = dict.fromkeys(note for row in shown for note in case_notes.notes(row["subjects"][PAIR[0]]))
    return f" The official package in videos: {'; '.join(notes)}." if notes else ""


def _is_shown(row: Row) -> bool:
    return (row.size, row.dtype, row.image_size) == (SIZE, DTYPE, SIDE)


def _cells(measured: Measured, processors: list[str], objects: int | None) -> list[str]:
    rows = {
        _processor(report): row for report, rows in measured for row in rows if _is_shown(row) if row.objects == objects
    }
    return [_cell(rows[p].ratio, rows[p].medians) if p in rows else NOT_MEASURED for p in processors]


def _masks(report: Report, processor: str) -> str:
    """The photograph with the middle ratio."""
    if processor != _processor(report):
        return NOT_MEASURED
    rows = {row["ratio"]["median"]: row["median_s"] for row in photographs(report, DTYPE)}
    middle = statistics.median_low(rows)
    return _cell(middle, rows[middle])


def _cell(ratio: float, medians: dict[str, float]) -> str:
    return f"**{times(ratio)}**, {' → '.join(seconds(medians[name]) for name in PAIR)}"


def _links(results: Results, reports: Iterable[Report]) -> str:
    found = {report.name: report for report in reports}
    return ", ".join(results.link(report, str(i)) for i, report in enumerate(found.values(), 1))
