"""What approximations cost and save, from files ``approximations-DEVICE-DATE.json``."""

from typing import Any

from figures.results import Results
from figures.text import machine, model, seconds, table, times

TIME_ALONE = "time alone"


def approximations(results: Results) -> str:
    report = results.find("approximations")
    if report is None:
        return results.not_measured("approximations")
    rows = report.data["rows"]
    parts = [_table(rows, films) for films in dict.fromkeys(row["films"] for row in rows)]
    text = f"Every sample is in {results.link(report)}, from {machine(report.data['machine'])}."
    return "\n\n".join([*parts, results.paragraph(text)])


def _table(rows: list[dict[str, Any]], films: str) -> str:
    chosen = [row for row in rows if row["films"] == films]
    judged = films != TIME_ALONE
    header = [f"{model(chosen[0]['model'])} at {chosen[0]['image_size']}, {films}"]
    header += ["mean IoU", "5 % below", "worst", "J&F"] if judged else []
    header += ["frames encoded", "tokens of an object", "GFLOP", "a frame", "saving"]
    lines = []
    for row in chosen:
        line = [f"`{row['name']}`" if row["approximations"] else "exact"]
        line += _agreement(row) if judged else []
        line += [f"{row['encoded'] / row['frames']:.0%}", f"{row['tokens']:,.0f}", f"{row['gflop']:.1f}"]
        if row["saving"] is None:  # of an imitation
            lines.append([*line, "–", "–"])
            continue
        saving = times(row["saving"]["total"]) if row["approximations"] else ""
        lines.append([*line, seconds(row["mean_s"]), f"**{saving}**" if saving else ""])
    return table(header, lines)


def _agreement(row: dict[str, Any]) -> list[str]:
    quality = "–" if row["j_and_f"] is None else f"{100 * row['j_and_f']:.1f}"
    if not row["approximations"]:
        return ["", "", "", quality]
    return [*(f"{row['iou'][key]:.3f}" for key in ("mean", "q05", "worst")), quality]
