"""What was measured of the web demo's server under load."""

from typing import Any

from figures.results import Results
from figures.text import machine, model, seconds, table

HEADER = ("sessions that track", "frames per second, all together", "clicks meanwhile", "click, p50", "click, p95")


def serve_load(results: Results) -> str:
    """A table of how long clicks take, and a sentence on memory; of runs in which every track was whole."""
    report = results.find("serve-load", _is_complete)
    if report is None:
        return results.not_measured("serve-load")
    data = report.data
    rows = [
        [
            str(row["sessions"]),
            f"{row['frames_per_s']:.1f}",
            str(row["clicks"]),
            seconds(row["click_p50_s"]),
            seconds(row["click_p95_s"]),
        ]
        for row in data["together"]
    ]
    return table(HEADER, rows) + "\n\n" + results.paragraph(_text(results.link(report), data))


def _is_complete(data: dict[str, Any]) -> bool:
    return all(row["complete"] == row["sessions"] and not row["failures"] for row in data["together"])


def _text(link: str, data: dict[str, Any]) -> str:
    height, width = data["frame"]
    memory = {int(count): mib for count, mib in data["resident_mib"].items()}
    most = max(memory)
    return (
        f"Measured with {model(data['model'])} and a film of {data['frames']} frames of {width}×{height}: each session "
        "clicks once and tracks the film to its end, and all came to it, while one more clicks on random frames all "
        f"the time. The process that serves held {memory[0]:,.0f} MiB afterwards, and {memory[most]:,.0f} MiB when "
        f"{most} more sessions had been opened, tracked to their ends and closed one after the other. {link}, from "
        f"{machine(data['machine'])}; `python bench/serve_load.py` does it again."
    )
