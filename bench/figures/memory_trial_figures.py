"""What was measured of memory trained on top of image weights."""

from pathlib import Path
from typing import Any

from figures.results import Results
from figures.text import machine, table

# Result -> how the table calls it, in its order.
ROWS = {
    "still": "the first mask kept still",
    "untrained": "image weights, memory as drawn",
    "trained": "the same, memory trained",
    "trained at 384": "the same at 384×384",
    "nano": "nano",
}
COMMAND = "python bench/memory_trial.py --media HELDOUT --trained averaged.pt --image-weights FILE --videos FILMS"


def memory_trial(results: Results) -> str:
    """A table of J&F from a mask and from a click, and what it was measured on."""
    report = results.newest("memory-trial")
    found = report.data["results"]
    header = ["J&F (J, F) in percent", "a mask on the first frame", "one click"]
    rows = [[ROWS[name], *(_cell(found[name], p) for p in ("mask", "click"))] for name in ROWS if name in found]
    return table(header, rows) + "\n\n" + results.paragraph(_text(results.link(report), report.data))


def memory_trial_pictures(results: Results) -> str:
    """A sentence on what the image weights find at each size."""
    found = results.newest("memory-trial").data["results"]["pictures"]
    sizes = [key for key in found if key.isdigit()]
    clicks = ", ".join(f"{found[size]['one_click_miou']:.0f}" for size in sizes)
    best = ", ".join(f"{found[size]['one_click_miou_best_of_3']:.0f}" for size in sizes)
    return results.paragraph(
        f"At {', '.join(sizes)} pixels one click finds things in {found['count']} held-out pictures with a mean IoU of "
        f"{clicks}; the best of its three masks has {best}."
    )


def memory_trial_films(results: Results) -> str:
    """A table of agreement with a larger model's masks of real films, beside nano's."""
    report, other = results.newest("memory-trial"), results.newest("nano-real")
    subjects = (report.data["results"]["films"], other.data["videos"])
    rows = []
    for film, things in subjects[0].items():
        for thing in things["mask"]:
            means = [f"{_later(data[film][prompt][thing]):.1f}" for prompt in ("mask", "click") for data in subjects]
            rows.append([f"`{Path(film).stem}`, {thing}", *means])
    header = ["mean IoU of later frames", "a mask", "a mask, nano", "one click", "one click, nano"]
    links = f"Percent; {results.link(report, 'memory trained')}, {results.link(other, 'nano')}."
    return table(header, rows) + "\n\n" + results.paragraph(links)


def _later(frames: dict[str, float]) -> float:
    """The mean over all frames but the first, which is prompted."""
    values = [iou for frame, iou in frames.items() if frame != "0"]
    return sum(values) / len(values)


def _cell(found: dict[str, Any], prompt: str) -> str:
    scores = found.get(f"clips_{prompt}")
    return "" if scores is None else f"{scores['J&F']:.1f} ({scores['J']:.1f}, {scores['F']:.1f})"


def _text(link: str, data: dict[str, Any]) -> str:
    clips, trained = data["clips"], data["results"]["trained"]
    return (
        f"After {trained['updates']:,} updates, {trained['training_minutes']:.0f} minutes of one core; on "
        f"{clips['count']} clips of {clips['num_frames']} frames with {trained['clips_mask']['objects']} things, made "
        f"as those of [nano's card](../sam2fast/nano/MODEL_CARD.md) from pictures that were set aside. {link}, from "
        f"{machine(data['machine'])}; `{COMMAND}` does it again."
    )
