"""A profile as text, one line per part, and as a chart, one bar per part."""

import io
import statistics
from typing import Any

from sam2fast.profiling.tree import Part, Profile

DEPTH = 3
REST = "copies and rest"
INDENT = "  "
COLUMNS = ("part", "calls", "ms", "self", "share", "GFLOP", "GFLOP/s", "limit")

WIDTH, ROW = 14.0, 0.42  # of the chart and of its rows, in inches
# Smallest bar that is drawn, as a share of the total, and width of a letter in points.
MIN_SHARE = 0.0005
LETTER_POINTS = 4.6
COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#86bcb6")
REST_COLOUR = "#d0d0d0"


def as_text(profile: Profile, depth: int | None = DEPTH) -> str:
    """The tree in aligned columns below a summary; a depth of None shows all of it."""
    root = profile.root
    table: list[tuple[str, ...]] = [COLUMNS]
    for path, part in root.walk():
        if depth is None or len(path) - 1 <= depth:
            table.append((INDENT * (len(path) - 1) + part.name, *_figures(profile, part)))
    rest = root.self_seconds
    table.append((INDENT + REST, "", f"{rest * 1e3:.2f}", "", f"{rest / root.seconds:.1%}", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join([*summary(profile), "", *lines])


def _figures(profile: Profile, part: Part) -> tuple[str, ...]:
    fraction = part.fraction(profile.limits)
    return (
        f"{part.calls:g}",
        f"{part.seconds * 1e3:.2f}",
        f"{part.self_seconds * 1e3:.2f}" if part.children else "",
        f"{part.seconds / profile.root.seconds:.1%}",
        f"{part.flops / 1e9:.2f}" if part.flops else "",
        f"{part.flops / part.seconds / 1e9:.1f}" if part.flops and part.seconds else "",
        "" if fraction is None else f"{fraction:.0%}",
    )


def summary(profile: Profile) -> list[str]:
    """Lines about the input, the machine and the total time."""
    s, m = profile.subject, profile.machine
    what = f"{s['kind']} of {s['width']}x{s['height']} at {s['image_size']}x{s['image_size']}, objects: {s['objects']}"
    if s["kind"] == "video":
        what += f", the average of frames {s['first_frame']} to {s['first_frame'] + s['frames'] - 1}"
    limits = ", ".join(f"{dtype} {flops / 1e9:.0f} GFLOP/s" for dtype, flops in profile.limits.flops_per_s.items())
    unit = profile.root.name
    lines = [
        f"{what}, runs: {s['runs']}",
        f"{m.get('gpu', m['processor'])}, threads: {m['threads']}, torch {m['torch']}, on {m['device']}",
        f"limits seen: {limits}, {profile.limits.bytes_per_s / 1e9:.1f} GB/s",
        f"{unit}: {_ms(profile.plain)} as a whole, {_ms(profile.profiled)} with its parts timed "
        f"({profile.overhead:+.1%}); medians, to the device's end",
    ]
    if profile.as_it_is is not None:
        lines.append(f"{unit} by CUDA graphs, which have no parts: {_ms(profile.as_it_is)}")
    return [*lines, f"named parts account for {profile.named:.1%}"]


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f} ms"


def draw(profile: Profile, suffix: str = ".png") -> bytes:
    """The chart as the content of a file: each part is a bar as wide as its time, above its children.

    Args:
        suffix: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a profile's chart needs matplotlib: pip install 'sam2fast[profile]'") from error
    root = profile.root
    depth = max(len(path) for path, _ in root.walk())
    figure = Figure(figsize=(WIDTH, ROW * depth + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _bar(axes, root.seconds, root, 0.0, 0, REST_COLOUR)
    left = 0.0
    for i, part in enumerate(root.children.values()):
        _stack(axes, root.seconds, part, left, 1, COLOURS[i % len(COLOURS)])
        left += part.seconds
    axes.set_xlim(0, root.seconds * 1e3)
    axes.set_ylim(depth, 0)
    axes.set_yticks([])
    axes.set_xlabel("milliseconds; parts of the same kind are drawn together")
    axes.set_title("\n".join(summary(profile)[:2]), fontsize=10, loc="left")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format=suffix.removeprefix("."), dpi=120)
    return content.getvalue()


def _stack(axes: Any, whole: float, part: Part, left: float, row: int, colour: str) -> None:
    """Draws a part above its children, which begin at its left end."""
    if part.seconds < MIN_SHARE * whole:
        return
    _bar(axes, whole, part, left, row, colour)
    for child in part.children.values():
        _stack(axes, whole, child, left, row + 1, colour)
        left += child.seconds


def _bar(axes: Any, whole: float, part: Part, left: float, row: int, colour: str) -> None:
    # Deeper rows are paler.
    axes.barh(
        row + 0.5, part.seconds * 1e3, left=left * 1e3, height=0.94, color=colour, alpha=max(0.35, 1 - 0.16 * row),
        edgecolor="white", linewidth=0.6,
    )  # fmt: skip
    room = part.seconds / whole * WIDTH * 72
    for text in (f"{part.name}  {part.seconds * 1e3:.1f} ms", part.name):
        if room > LETTER_POINTS * len(text):
            middle = (left + part.seconds / 2) * 1e3
            axes.text(middle, row + 0.5, text, ha="center", va="center", fontsize=8, clip_on=True)
            return
