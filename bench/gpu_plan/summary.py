"""The table at the end of a visit."""

from collections.abc import Sequence

from gpu_plan.records import Records
from gpu_plan.steps import Step

NOT_REACHED = "not reached"


def table(steps: Sequence[Step], records: Records) -> str:
    """Step, verdict, figure, goal and seconds of every step, as Markdown."""
    verdicts = records.verdicts()
    rows = [("step", "verdict", "figure", "goal", "s")]
    for step in steps:
        found = verdicts.get(step.name, {"verdict": NOT_REACHED, "figure": "", "seconds": 0})
        rows.append((step.name, found["verdict"], found["figure"], step.goal, f"{found['seconds']:.0f}"))
    rows.insert(1, ("---",) * 5)
    lines = ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    counts = [verdicts.get(step.name, {"verdict": NOT_REACHED})["verdict"].partition(":")[0] for step in steps]
    said = ", ".join(f"{counts.count(kind)} {kind}" for kind in dict.fromkeys(counts))
    lines += ["", f"{len(steps)} steps: {said}."]
    if records.problem:
        lines.append(f"RESULTS WERE NOT WRITTEN: {records.problem}")
    return "\n".join(lines) + "\n"
