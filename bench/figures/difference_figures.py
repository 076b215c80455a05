"""How far the results of the two packages were apart where both were measured."""

from collections.abc import Iterator
from typing import Any

from figures.measured import ENCODE, TRACK, by_processor
from figures.results import Results
from figures.suite_figures import suite_gpus
from figures.text import small

# Its difference is a share of masks, and not one of numbers.
SHARE = "automatic masks"


def seen_difference(results: Results) -> str:
    """The largest difference in fp32 of any row of docs/benchmarks.md that compares with the official package."""
    return small(max(_fp32(results)))


def _fp32(results: Results) -> Iterator[float]:
    for kind, case in (("set-image", ENCODE), ("video", TRACK)):
        for _, rows in by_processor(results, kind, case):
            yield from (row.difference for row in rows if row.dtype == "fp32" and row.difference is not None)
    found = (results.find(kind) for kind in ("suite", "curves", "curves-gpu"))
    for report in [*(report for report in found if report is not None), *suite_gpus(results)]:
        for row in report.data["rows"]:
            # Without the official package a row compares our own subjects.
            if row["dtype"] == "fp32" and row.get("case") != SHARE and _has_official(row):
                yield from row["difference"].values()
    for report in filter(None, (results.find(kind) for kind in ("encoder", "encoder-gpu"))):
        for row in report.data["rows"]:
            if row["dtype"] == "fp32":
                yield from (error for name, error in row["errors"].items() if name.startswith("sam2fast"))


def _has_official(row: dict[str, Any]) -> bool:
    official = row["subjects"].get("official")
    return official is not None and official["median_s"] is not None
