"""What was measured of fine-tuning on a new kind of object."""

from typing import Any

from figures.results import Results
from figures.text import counted, machine, table

# How the table calls what `sam2fast evaluate-images` measures.
OWN = {"1 click": "one click", "1 click, best of 3": "one click, best of three masks", "3 clicks": "three clicks"}
OWN |= {"box": "box"}
KEPT = {"one_click_miou": OWN["1 click"], "one_click_miou_best_of_3": OWN["1 click, best of 3"]}
STATES = ("before", "after")


def own_masks(results: Results) -> str:
    """A table of before and after, for the new kind of object and for what the model could."""
    report = results.find("own-masks")
    if report is None:
        return results.not_measured("own-masks")
    data = report.data
    own, kept = data["own"], data["kept"]
    rows = [_row(f"snakes, {OWN[name]}: mean IoU", [own[s]["miou"][name] for s in STATES]) for name in OWN]
    for name, prompt in KEPT.items():
        rows.append(_row(f"drawn pictures, {prompt}: mean IoU", [kept[s]["pictures"][name] for s in STATES]))
    for prompt in ("click", "mask"):
        rows.append(_row(f"drawn clips, a {prompt}: J&F", [kept[s][f"clips_{prompt}"]["J&F"] for s in STATES]))
    return table(["percent", *STATES], rows) + "\n\n" + results.paragraph(_text(results.link(report), data))


def _row(what: str, values: list[float]) -> list[str]:
    return [what, *(f"{value:.1f}" for value in values)]


def _text(link: str, data: dict[str, Any]) -> str:
    minutes = data["training"]["cpu_seconds"] / 60
    objects = data["own"]["after"]["objects"]
    things, clips = (data["kept"]["after"][kind]["objects"] for kind in ("pictures", "clips_mask"))
    return (
        f"Measured with striped snakes, {data['pictures']} pictures to learn from: {data['updates']} updates took "
        f"{minutes:.1f} minutes of one core's time. The {counted(objects, 'snake')} are on {data['held_out']} other "
        f"pictures; drawn pictures and clips, with {things} and {clips} things, are of the kind that nano was trained "
        f"on, but not those. {link}, from {machine(data['machine'])}; `python bench/own_masks.py` does it again."
    )
