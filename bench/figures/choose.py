"""Writes cells of docs/choose.md from files in the form of the suite."""

from collections.abc import Callable
from typing import Any

from figures.results import Results, mark, processor, seconds
from figures.suite import ENCODE, FRAMES, MASKS, PAIR, SUITE, TRACK

STREAM, MEMORY = "stream latency", "peak memory"
CPU = {"dtype": "fp32"}
GPU = {"dtype": "bf16", "image_size": 1024}
TINY = CPU | {"size": "t", "image_size": 1024}
NANO = CPU | {"size": "nano"}
# Values that a row must have, for each part.
ROWS: dict[str, dict[str, Any]] = {
    "choose-image": {"case": ENCODE} | TINY,
    "choose-objects": {"case": TRACK, "objects": 4} | TINY,
    "choose-stream": {"case": STREAM, "objects": 1} | NANO,
    "choose-image-memory": {"case": MEMORY, "objects": None} | TINY,
    "choose-nano-memory": {"case": MEMORY, "objects": 4} | NANO,
    "choose-gpu-image": {"case": ENCODE, "size": "l"} | GPU,
    "choose-gpu-tiny-image": {"case": ENCODE, "size": "t"} | GPU,
    "choose-gpu-tiny-frame": {"case": FRAMES, "size": "t", "objects": 1} | GPU,
    "choose-gpu-frame": {"case": FRAMES, "size": "l", "objects": 1} | GPU,
    "choose-gpu-objects": {"case": FRAMES, "size": "l", "objects": 4} | GPU,
    "choose-gpu-stream": {"case": STREAM, "size": "t", "objects": 1} | GPU,
    "choose-gpu-masks": {"case": MASKS, "size": "l"} | GPU,
    "choose-gpu-image-memory": {"case": MEMORY, "size": "l", "objects": None} | GPU,
    "choose-gpu-research": {"case": FRAMES, "size": "b+", "objects": 1} | GPU,
}


def cell(results: Results, wanted: dict[str, Any]) -> str:
    """Returns sam2fast's newest figure on each processor, with links and marks; a dash if there is none.

    Figures are MiB in rows of peak memory, and seconds in other rows.
    """
    found: dict[str, str] = {}
    for report in results.reports(SUITE):
        about = report.data["machine"]
        for row in report.data["rows"] if ("gpu" in about) == (wanted["dtype"] == "bf16") else ():
            ours = row["subjects"].get(PAIR[1])
            if wanted.items() <= row.items() and ours and ours["median_s"] is not None:
                figure = f"{ours['peak_mib']:,.0f} MiB" if row["case"] == MEMORY else seconds(ours["median_s"])
                on = about.get("gpu") or about["capability"]
                found.setdefault(processor(about), f"{results.link(report, figure)} ({on}){mark(row, report)}")
    return ", ".join(found.values()) or "–"


SECTIONS: dict[str, Callable[[Results], str]] = {
    name: lambda results, wanted=wanted: cell(results, wanted) for name, wanted in ROWS.items()
}
