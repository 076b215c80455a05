"""What training recipes keep in memory, from files ``training-memory-cpu-DATE.json``."""

from typing import Any

from figures.results import Report, Results
from figures.text import count, machine, table

MEASURED, LARGEST = (256, 512), 1024
PREFIX = "sam2.1_training/sam2.1_hiera_b+_"
COUNTED = ("weights", "gradients", "optimizer")


def training_memory(results: Results) -> str:
    report = results.find("training-memory")
    if report is None:
        return results.not_measured("training-memory")
    by_recipe: dict[str, dict[int, dict[str, Any]]] = {}
    for row in report.data["rows"]:
        if not row["overrides"]:
            by_recipe.setdefault(row["recipe"], {})[row["side"]] = row
    complete = {name: sides for name, sides in by_recipe.items() if {*MEASURED, LARGEST} <= set(sides)}
    header = ["recipe", "numbers that learn", "weights, gradients, optimiser's state"]
    header += [f"for backward at {side}: counted, measured" for side in MEASURED]
    header += [f"for backward at {LARGEST}, estimated", f"together at {LARGEST}, estimated"]
    rows = [_row(name, sides) for name, sides in complete.items()]
    return table(header, rows) + "\n\n" + results.paragraph(_about(results, report, complete))


def _row(recipe: str, sides: dict[int, dict[str, Any]]) -> list[str]:
    largest = sides[LARGEST]["mib"]
    fixed = [largest[part] for part in COUNTED]
    cells = [f"`{recipe.removeprefix(PREFIX)}`", f"{sides[LARGEST]['parameters']['learning'] / 1e6:.1f} million"]
    cells.append(", ".join(_mib(size) for size in fixed))
    for side in MEASURED:
        found = sides[side]["mib"]
        cells.append(f"{_mib(found['saved'])}, {_mib(found['saved_measured'])}")
    return [*cells, _mib(largest["saved"]), f"**{(sum(fixed) + largest['saved']) / 1024:.1f} GiB**"]


def _mib(size: float | None) -> str:
    return "–" if size is None else f"{size:,.0f}"


def _about(results: Results, report: Report, recipes: dict[str, dict[int, dict[str, Any]]]) -> str:
    first = next(iter(recipes.values()))[LARGEST]
    batch = f"{count(first['frames'])} frames and {count(first['objects'])} objects"
    off = max(abs(_extended(sides) / sides[LARGEST]["mib"]["saved"] - 1) for sides in recipes.values())
    text = (
        f"MiB, for {batch} with the dearest prompts that a recipe can draw. What is kept for backward is a constant "
        f"and a share for each pixel: the line through {MEASURED[0]} and {MEASURED[1]} meets what is counted at "
        f"{LARGEST} within {_percent(off)}"
    )
    apart = [
        abs(sides[side]["mib"]["saved"] / sides[side]["mib"]["saved_measured"] - 1)
        for sides in recipes.values()
        for side in MEASURED
        if sides[side]["mib"]["saved_measured"]
    ]
    if apart:
        text += f", and what is counted is within {_percent(max(apart))} of what is measured"
    return f"{text} ({results.link(report)}, from {machine(report.data['machine'])})."


def _percent(share: float) -> str:
    """Rounded up."""
    return f"{-(-share * 1000 // 1) / 10:.1f} percent"


def _extended(sides: dict[int, dict[str, Any]]) -> float:
    """MiB at the largest side by the line through the two smaller ones, over pixels."""
    (a, b), (at_a, at_b) = MEASURED, (sides[side]["mib"]["saved"] for side in MEASURED)
    return float(at_b + (at_b - at_a) * (LARGEST**2 - b**2) / (b**2 - a**2))
