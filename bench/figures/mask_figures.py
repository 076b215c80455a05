"""What was measured of automatic masks beside the official generator, with real weights."""

import statistics
from typing import Any

from figures.charts import Chart, rounded
from figures.measured import PAIR, medians_of
from figures.results import Report, Results
from figures.text import capitalised, counted, machine, seconds, table, times


def photographs(report: Report, dtype: str) -> list[dict[str, Any]]:
    return [row for row in report.data["rows"] if row["dtype"] == dtype]


def runs_of(rows: list[dict[str, Any]]) -> str:
    """How often each of these photographs was done, as a piece of a sentence."""
    runs = [len(row["seconds"][name]) for row in rows for name in PAIR]
    return "in one run" if max(runs) == 1 else f"as {medians_of(runs)} runs"


def masks_ratio(results: Results) -> str:
    """A piece of a sentence: how many photographs, how many times as fast, and how the masks agree."""
    rows = photographs(results.newest("automatic-masks"), "fp32")
    ratios, counts = [row["ratio"]["median"] for row in rows], [row["masks"] for row in rows]
    found = f"{min(ratios):.1f} to {max(ratios):.1f} times"
    said = f"{counted(len(rows), 'photograph')} are done {found} as fast as by the official generator"
    least = min(row["agreement"]["least IoU"] for row in rows)
    alone = any(row["agreement"]["mismatched"] for row in rows) or any(n["official"] != n["sam2fast"] for n in counts)
    if alone:
        return f"{said}, with an IoU of at least {least:.4f} of those masks that both find"
    return f"{said}, with as many masks, each of an IoU of at least {least:.4f} with one of its"


def automatic_masks(results: Results) -> str:
    report = results.newest("automatic-masks")
    memory = results.newest("automatic-masks", lambda data: any(row["peak_mib"] for row in data["rows"]))
    rates = {
        dtype: statistics.median(row["decoder"]["GFLOP/s"] for row in photographs(report, dtype))
        for dtype in ("fp32", "bf16")
    }
    intro = (
        f"The default grid (1,024 points), Meta's tiny weights, {machine(report.data['machine'])}, official generator "
        f"and ours in turn in one process, {runs_of(report.data['rows'])} ({results.link(report, 'samples')}, "
        "`bench/automatic_masks.py`). The floor "
        f"is the FLOPs of our decoder at the rate of a large matrix product, {rates['fp32']:.0f} GFLOP/s in fp32 and "
        f"{rates['bf16']:.0f} in bfloat16 in that run. Growth of memory is over `set_image`, each in a "
        "process of its own"
    )
    intro += "." if memory.name == report.name else f", from {results.link(memory, 'another run')}."
    exact = table(
        [
            "photograph",
            "fp32 masks",
            "least IoU",
            "official",
            "sam2fast",
            "",
            "decoder's floor",
            "memory, official → ours",
        ],
        [_exact_line(row, memory) for row in photographs(report, "fp32")],
    )
    about = (
        "In bfloat16 masks near a threshold come and go. Each is set against the official fp32 masks: the share of "
        "masks that have no counterpart, and the mean IoU of those that have; official under autocast, ours with "
        "weights cast once."
    )
    rough = table(
        ["photograph", "official", "sam2fast", "", "masks", "without counterpart", "mean IoU"],
        [_rough_line(row) for row in photographs(report, "bf16")],
    )
    return "\n\n".join((results.paragraph(intro), exact, results.paragraph(about), rough))


def _name(row: dict[str, Any]) -> str:
    return str(row["image"].rsplit(".", 1)[0])


def _exact_line(row: dict[str, Any], memory: Report) -> list[str]:
    growth = next(other["peak_mib"] for other in photographs(memory, "fp32") if other["image"] == row["image"])
    height, width = row["pixels"]
    return [
        f"{_name(row)}, {width}×{height}",
        f"{row['masks']['official']} and {row['masks']['sam2fast']}",
        f"{row['agreement']['least IoU']:.4f}",
        *(seconds(row["median_s"][name], 1) for name in PAIR),
        f"**{times(row['ratio']['median'], 1)}**",
        seconds(row["decoder"]["floor_s"]["sam2fast"], 1),
        f"+{growth['official']['growth']:.0f} → +{growth['sam2fast']['growth']:.0f} MiB",
    ]


def _rough_line(row: dict[str, Any]) -> list[str]:
    official, ours = (row["agreement"][name] for name in PAIR)
    return [
        _name(row),
        *(seconds(row["median_s"][name], 1) for name in PAIR),
        times(row["ratio"]["median"], 1),
        f"{row['masks']['official']} and {row['masks']['sam2fast']}",
        f"{official['mismatched'] * 100:.1f} and {ours['mismatched'] * 100:.1f} %",
        f"{official['mean IoU']:.4f} and {ours['mean IoU']:.4f}",
    ]


def automatic_masks_chart(results: Results) -> Chart:
    rows = results.newest("automatic-masks").data["rows"]
    series = {name: rounded([row["median_s"][name] for row in rows]) for name in PAIR}
    places = [f"{capitalised(_name(row))} {row['dtype']}" for row in rows]
    return Chart("Automatic masks on one CPU thread", "seconds, less is better", series, places)
