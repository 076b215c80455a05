"""What was measured of evaluation, and of workers."""

from typing import Any

from figures.results import Report, Results
from figures.text import capitalised, machine, model, seconds, table, times

LAYOUTS = {"davis": "DAVIS", "sav": "SA-V"}
YARDSTICKS = {"scipy": "whole-picture dilation", "opencv": "the same by OpenCV", "decoding alone": "decoding alone"}
RUNNERS = {"processes": "processes", "ray": "Ray"}


def _source(results: Results, report: Report) -> str:
    return results.paragraph(f"Every sample is in {results.link(report)}, from {machine(report.data['machine'])}.")


def evaluation(results: Results) -> str:
    """Scoring beside the rules written out plainly, and beside reading the files."""
    report = results.newest("evaluation")
    there = [name for name in YARDSTICKS if any(name in row["median_s"] for row in report.data["rows"])]
    rows = []
    for row in report.data["rows"]:
        found = row["median_s"]
        rows.append(
            [LAYOUTS[row["layout"]], str(row["processes"]), f"{row['masks']:,}", *(seconds(found[n]) for n in there)]
            + [seconds(found["sam2fast"])]
            + [f"**{times(row['ratio'][name], 1)}**" for name in there if name != "decoding alone"]
        )
    header = ["layout", "processes", "masks", *(YARDSTICKS[name] for name in there), "`sam2fast evaluate`"]
    header += [f"times as fast as {YARDSTICKS[name]}" for name in there if name != "decoding alone"]
    return table(header, rows) + "\n\n" + _source(results, report)


def scaling(results: Results) -> str:
    """One worker and several."""
    report = results.newest("scaling")
    rows, empty = [], {}
    for row in report.data["rows"]:
        if row["op"] == "empty jobs":
            empty[row["runner"], row["workers"]] = row["jobs_per_second"]
    for row in report.data["rows"]:
        if row["op"] == "clips":
            begun = min(sample["seconds_to_begin"] for sample in row["samples"])
            rows.append(
                [RUNNERS[row["runner"]], str(row["workers"]), f"{row['frames_per_second']:.1f}"]
                + [f"{100 * row['efficiency']:.0f}%", f"{begun:.1f} s", f"{empty[row['runner'], row['workers']]:,.0f}"]
            )
    header = ["on", "workers", "frames a second", "of as many single ones", "begun after", "empty jobs a second"]
    clip = report.data["clip"]
    what = f"{clip['clips']} clips of {clip['frames']} frames, {model(clip['model'])} at {clip['size']}, a thread each"
    return results.paragraph(f"{capitalised(what)}:") + "\n\n" + table(header, rows) + "\n\n" + _source(results, report)


def empty_jobs(results: Results) -> str:
    """A number: what one driver hands out on Ray."""
    rows: list[dict[str, Any]] = results.newest("scaling").data["rows"]
    most = max(row["jobs_per_second"] for row in rows if row["op"] == "empty jobs" and row["runner"] == "ray")
    return f"{most:,.0f}"
