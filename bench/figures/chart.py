"""``docs/speed.svg``: how many times as fast as the official package, a bar for each case and processor."""

import re
from collections.abc import Iterator, Sequence
from html import escape

from figures.results import Results, mark, several
from figures.suite import PAIR, gpu_frames, summary

COLOURS = ("#2563eb", "#94a3b8", "#009e73", "#d97706", "#a855f7", "#dc2626")  # of CPUs, then of GPUs
LABELS, WIDTH, BAR, LINE, GAP = 250, 450, 18, 17, 16  # pixels
GREY = "#6b7a90"
FONT = 'font-family="system-ui, sans-serif" font-size="14"'
ONE_OBJECT = "a frame of a video, one object"
ON_GPUS = "On GPUs, the official package runs in eager mode."
PROVISIONAL = ("Marked figures are provisional: the measurement did not end in time, or files",
               "differed from a known commit.")  # fmt: skip
Bars = dict[str, tuple[float, str]]  # ratio and mark of each processor


def speed(results: Results) -> str:
    """Draws ratios of the summary's table and of frames on GPUs as SVG, readable on light and dark pages."""
    head, _, *rows = (line.strip("|").split("|") for line in summary(results).splitlines() if line.startswith("|"))
    names = [f"{name.strip()}, fp32" for name in head[1:]][::-1]
    cases = {row[0].strip(): _bars_of(names, row[:0:-1]) for row in rows}
    for gpu, (row, report) in gpu_frames(results).items():
        if PAIR[1] in row["ratio"]:
            names.append(f"{gpu}, {row['dtype']}")
            cases[ONE_OBJECT][names[-1]] = row["ratio"][PAIR[1]]["median"], mark(row, report)
    colours = dict(zip(names, COLOURS[: len(names)], strict=True))
    scale = WIDTH / max(ratio for bars in cases.values() for ratio, _ in bars.values())
    lines, y = [], GAP
    for case, bars in cases.items():
        lines += _case(case, bars, colours, scale, y)
        y += BAR * len(bars) + GAP
    lines += _notes(_conditions(results), y - 4)
    y += 2 * LINE + GAP
    lines += _legend(colours, y)
    y += LINE * ((len(names) + 1) // 2)
    is_marked = any(remark for _, remark in cases[ONE_OBJECT].values())
    notes = [ON_GPUS] * (len(names) >= len(head)) + [*PROVISIONAL] * is_marked
    lines += _notes(notes, y + 4)
    y += LINE * len(notes)
    title = "Times as fast as the official package: " + "; ".join(names)
    size = f'viewBox="0 0 {LABELS + WIDTH + 60} {y}" width="{LABELS + WIDTH + 60}" height="{y}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>', f"<title>{escape(title)}</title>",
                      *lines, "</svg>\n"])  # fmt: skip


def _bars_of(names: list[str], cells: list[str]) -> Bars:
    found = zip(names, (re.search(r"\*\*([\d.]+)×", cell) for cell in cells), strict=True)
    return {name: (float(match[1]), "") for name, match in found if match}


def _conditions(results: Results) -> list[str]:
    """Returns lines on the conditions of the last bar, all masks of a photograph."""
    threads = several(results.newest("automatic-masks-cpu").data["machine"]["threads"], "thread")
    return [f"{threads.capitalize()}, Meta's weights. The official package's non-maximum suppression runs",
            "in Python, since torchvision's compiled function was not installed."]  # fmt: skip


def _case(case: str, bars: Bars, colours: dict[str, str], scale: float, top: int) -> Iterator[str]:
    middle = top + BAR * len(bars) / 2 + 5
    yield _text(LABELS - 12, f"{middle:.0f}", case, 'text-anchor="end"')
    for y, (name, (ratio, remark)) in zip(range(top, top + BAR * len(bars), BAR), bars.items(), strict=True):
        yield f'<rect x="{LABELS}" y="{y}" width="{ratio * scale:.0f}" height="{BAR - 3}" fill="{colours[name]}"/>'
        yield _text(f"{LABELS + ratio * scale + 8:.0f}", y + 12, f"{ratio:.2f}×{remark}")


def _legend(colours: dict[str, str], top: int) -> Iterator[str]:
    for i, (name, colour) in enumerate(colours.items()):
        x, y = LABELS + 255 * (i % 2), top + LINE * (i // 2)
        yield f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>'
        yield _text(x + 18, y, name)


def _notes(notes: Sequence[str], top: int) -> Iterator[str]:
    for i, note in enumerate(notes):
        yield _text(LABELS, top + LINE * i, note, 'font-size="12"')


def _text(x: float | str, y: float | str, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" {f"{more} " * bool(more)}fill="{GREY}">{escape(text, quote=False)}</text>'
