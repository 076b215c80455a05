"""Files in the suite's form: a table for each case and machine, the summary, and whether a GPU was measured."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from suite.results import validate

from figures.results import (
    FiguresError,
    Report,
    Results,
    machine,
    mark,
    processor,
    seconds,
    several,
    small,
    table,
    write,
)

SUITE = r"suite-(?!transformers-)[a-z0-9-]+"
# Columns with templates of their cells, then the columns of each implementation NAME. A column needs a cell in a row.
SETTINGS = {"model, side, dtype": "{size:model}, {image_size}, {dtype}{mark}", "objects": "{objects}"}
SETTINGS |= {"frames before": "{history:,}"}
FIGURES = {
    "NAME": "{subjects[NAME][median_s]:seconds}",
    "ratio of NAME": "**{ratio[NAME][median]:times}**",
    "peak MiB of NAME": "{subjects[NAME][peak_mib]:,.0f}",
    "graphs MiB of NAME": "{subjects[NAME][graphs_mib]:,.0f}",
    "p95 of NAME": "{subjects[NAME][p95_s]:seconds}",
    "p99 of NAME": "{subjects[NAME][p99_s]:seconds}",
}
# Columns of our call, from its profile, and of its masks.
PROFILE = {
    "least IoU of sam2fast": "{iou[sam2fast][*]:min .3f}",
    "encodes": "{device[encodes]:.2f}",
    "GPU busy, µs": "{device[busy us]:,.0f}",
    "overlap, µs": "{device[overlap us]:,.0f}",
    "copies, µs": "{device[copies us]:,.0f}",
    "host thread, µs": "{device[host us]:,.0f}",
    "of it waiting, µs": "{device[host waits us]:,.0f}",
    "first touch, µs": "{device[first touch us]:,.0f}",
}
PAIR = ("official", "sam2fast")
ENCODE, TRACK, FRAMES, MASKS = "image encode", "video steady frame", "video throughput", "automatic masks"
UNSAID = re.compile(r"|not asked for|for video only|\d+ frames before the first")  # notes that tables leave out
Row = dict[str, Any]


def newest_of_each(results: Results, gpu: bool | None = None) -> list[Report]:
    """The suite's newest file of each machine, the last measured first; of GPUs, of CPUs, or of both."""
    found: dict[str, Report] = {}
    for report in results.reports(SUITE):
        if found.setdefault(processor(report.data["machine"]), report) is report:
            validate(report.data)
    return [report for report in found.values() if gpu in (None, "gpu" in report.data["machine"])]


def gpu(results: Results) -> str:
    """Figures of GPUs: the suite's tables, sentences on kernels, and links to everything else."""
    suites = [report for report in results.reports(SUITE) if _gpu_of(report)]  # visits measure different cases
    others = [report for report in results.reports(".+") if _gpu_of(report) and not re.match(SUITE, report.name)]
    listed = "\n".join(f"- {results.link(report)}" for report in others)
    parts = [*(tables_of(results, report) for report in suites), *map(sentences, others), listed]
    return "\n\n".join(filter(None, parts)) or "Nothing has been measured on a GPU."


def sentences(report: Report) -> str:
    """A list of the outcomes of a visit's comparisons of kernels; empty if it made none."""
    rows = report.data.get("parts", {}).get("sentences", [])
    listed = "\n".join(f"- {row['sentence']}{mark(row, report)}" for row in rows)
    return f"### Kernels on {_gpu_of(report)}, {report.data['date']}\n\n{listed}" if rows else ""


def gpu_frames(results: Results) -> dict[str, tuple[Row, Report]]:
    """Returns for each GPU the newest row of a frame of tiny with one object, and the row's file."""
    found: dict[str, tuple[Row, Report]] = {}
    for report in results.reports(SUITE):
        for row in report.data["rows"] if _gpu_of(report) else ():
            if (row["case"], row["size"], row["objects"]) == (FRAMES, "t", 1) and _median(row, PAIR[1]):
                found.setdefault(_gpu_of(report), (row, report))
    return found


def gpu_state(results: Results) -> str:
    """Returns a piece of a sentence: the newest time of a frame of tiny on each GPU, beside the official package's."""
    frames = gpu_frames(results).items()
    if not frames:
        return "nothing has been measured on a GPU"
    times = "; ".join(f"{_frame_of(row)}, on {name}{mark(row, report)}" for name, (row, report) in frames)
    marks = f"([what the marks say]({results.root}docs/benchmarks.md#gpus))"
    return f"a frame of tiny with one object takes {times} {marks}"


def _frame_of(row: Row) -> str:
    """Returns our time of a frame, and how many times as fast it is as the official package, eager and compiled."""
    ours, compiled = _median(row, PAIR[1]), _median(row, "official vos_optimized")
    assert ours is not None
    parts = [f"{ours * 1e3:.2f} ms"]
    if PAIR[1] in row["ratio"]:
        parts.append(f"{row['ratio'][PAIR[1]]['median']:.1f} times as fast as the official package in eager mode")
    if compiled is not None:
        parts.append(f"{compiled / ours:.1f} times as fast as its compiled predictor")
    return ", ".join(parts)


def _gpu_of(report: Report) -> str:
    """The GPU's name; files of ``make gpu`` name their device, which may be a CPU. Empty where there is none."""
    about = report.data.get("machine")
    name = about.get("gpu") or about.get("device", "") if isinstance(about, dict) else ""
    return "" if name.startswith("CPU") else str(name)


def tables_of(results: Results, report: Report) -> str:
    """Every case of one file, under headings."""
    by_case: dict[str, list[Row]] = {}
    for row in report.data["rows"]:
        by_case.setdefault(row["case"], []).append({**row, "mark": mark(row, report)})
    on_gpu = f", {report.data['date']}" if _gpu_of(report) else ""
    parts = [f"### {processor(report.data['machine'])}{on_gpu}"]
    parts.append(f"Every sample is in {results.link(report)}, measured on {machine(report.data['machine'])}.")
    for case, rows in by_case.items():
        parts += [f"#### {case.capitalize()}", *case_table(rows), paths(rows)]
    return "\n\n".join(filter(None, parts))


def case_table(rows: list[Row]) -> list[str]:
    """A table of one case, and its notes; the last column numbers those that not every row has."""
    names = _subjects(rows)
    templates = SETTINGS | {t.replace("NAME", n): f.replace("NAME", n) for t, f in FIGURES.items() for n in names}
    templates |= PROFILE
    columns = {title: [_cell(template, row) for row in rows] for title, template in templates.items()}
    noted = [list(dict.fromkeys(_notes(row))) for row in rows]
    shared = [note for note in noted[0] if all(note in notes for notes in noted)]
    some = list(dict.fromkeys(note for notes in noted for note in notes if note not in shared))
    columns["notes"] = [", ".join(str(some.index(n) + 1) for n in notes if n in some) or "–" for notes in noted]
    shown = {title: cells for title, cells in columns.items() if set(cells) != {"–"}}
    meanings = [*shared, *(f"{number}: {note}" for number, note in enumerate(some, 1))]
    text = " ".join(f"{meaning[0].upper()}{meaning[1:]}." for meaning in meanings)
    return [table(list(shown), list(zip(*shown.values(), strict=True))), text]


def _cell(template: str, row: Row) -> str:
    """A dash where the row has no such figure."""
    try:
        text = write(template, row)
    except FiguresError:
        return "–"
    return "–" if "–" in text else text


def paths(rows: list[Row]) -> str:
    """Which path the calls of each implementation took; nothing where the file does not say."""
    found = {}
    for name in _subjects(rows):
        timed = [row["subjects"][name] for row in rows if _median(row, name) is not None]
        found[name] = " or ".join(filter(None, dict.fromkeys(subject.get("path", "") for subject in timed)))
    listed = "; ".join(f"{name} {path}" for name, path in found.items() if path)
    return f"Path taken: {listed}." if listed else ""


def _subjects(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["subjects"]))


def _median(row: Row, name: str) -> float | None:
    subject = row["subjects"].get(name)
    return None if subject is None else subject["median_s"]


def _notes(row: Row) -> Iterator[str]:
    """Yields notes of the row and of its implementations, also the reason if one was not timed."""
    if row["note"]:
        yield row["note"].replace("a picture", "an image")  # codespell:ignore
    for name, subject in row["subjects"].items():
        said = [note for note in subject["note"].split("; ") if not UNSAID.fullmatch(note)]
        if said:
            yield f"{name}: {'; '.join(said)}"


def summary(results: Results) -> str:
    """SAM 2 tiny on images, frames of videos and whole photographs; a column for each processor."""
    masks = results.newest("automatic-masks-cpu")
    cells: dict[str, dict[str, str]] = {"an image": {}}
    runs, threads, notes, used = set(), set(), {}, {}
    for report in newest_of_each(results, gpu=False):
        about = report.data["machine"]
        for row in filter(_is_in_summary, report.data["rows"]):
            what = f"a frame of a video, {several(row['objects'], 'object')}" if row["case"] == TRACK else "an image"
            medians = [_median(row, name) for name in PAIR]
            cells.setdefault(what, {})[processor(about)] = _pair(row["ratio"][PAIR[1]], medians)
            runs.add(len(row["subjects"][PAIR[1]]["samples_s"]))
            threads.add(about["threads"])
            notes |= dict.fromkeys(note for note in _notes(row) if row["case"] == TRACK)
            used[report.name] = report
    photographs = sorted((r for r in masks.data["rows"] if r["dtype"] == "fp32"), key=lambda r: r["ratio"]["median"])
    middle = photographs[(len(photographs) - 1) // 2]
    medians = [middle["median_s"][name] for name in PAIR]
    cells["all masks of a photograph"] = {processor(masks.data["machine"]): _pair(middle["ratio"], medians)}
    columns = sorted({name for found in cells.values() for name in found})
    lines = [[what, *(found.get(name, "–") for name in columns)] for what, found in cells.items()]
    links = ", ".join(results.link(report, str(i)) for i, report in enumerate([*used.values(), masks], 1))
    changes = [note.removeprefix(f"{PAIR[0]}: ") for note in notes if note.startswith(PAIR[0])]
    about = (
        f"SAM 2.1 tiny in fp32 at 1024×1024, medians of {_range(runs)} runs with {_range(threads)} threads. The "
        f"official package and sam2fast take turns in one process, with the same weights. All masks of a photograph "
        f"are computed with {several(masks.data['machine']['threads'], 'thread')}, and the official package computes "
        f"their non-maximum suppression in Python, without torchvision. In videos, the official package is changed: "
        f"{'; '.join(changes)}. "
        f"Samples: {links}."
    )
    return table(["official → sam2fast", *columns], lines) + "\n\n" + about


def _is_in_summary(row: Row) -> bool:
    setting = (row["size"], row["dtype"], row["image_size"], row["history"]) == ("t", "fp32", 1024, None)
    return setting and row["case"] in (ENCODE, TRACK) and None not in (_median(row, name) for name in PAIR)


def _pair(ratio: dict[str, float], medians: list[Any]) -> str:
    return f"**{ratio['median']:.2f}×**, {' → '.join(map(seconds, medians))}"


def _range(numbers: Iterable[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def seen_difference(results: Results) -> str:
    """The largest difference from the official package in fp32, of everything that was measured.

    That of automatic masks is a share of masks, and does not count.
    """
    curves = [results.newest("curves-cpu"), *results.reports("curves-cuda")[:1]]
    rows = [row for report in [*newest_of_each(results), *curves] for row in report.data["rows"]]
    compared = [r for r in rows if r["dtype"] == "fp32" and r.get("case") != MASKS and _median(r, PAIR[0]) is not None]
    encoders = [results.newest("encoder-cpu"), *results.reports("encoder-cuda")[:1]]
    errors = [row["errors"] for report in encoders for row in report.data["rows"] if row["dtype"] == "fp32"]
    found = [value for row in compared for value in row["difference"].values()]
    return small(max([*found, *(value for each in errors for name, value in each.items() if name.startswith(PAIR[1]))]))


SECTIONS: dict[str, Callable[[Results], str]] = {
    "summary": summary,
    "suite": lambda results: "\n\n".join(tables_of(results, each) for each in newest_of_each(results, gpu=False)),
    "transformers": lambda results: tables_of(results, results.newest("suite-transformers-cpu")),
    "gpu": gpu,
    "gpu-state": gpu_state,
    "seen-difference": seen_difference,
}
