"""A profile as a chart: each part a bar as wide as its time, above those it consists of."""

import io
from typing import Any

from sam2fast.profiling.profile import Profile
from sam2fast.profiling.tree import Part

FORMATS = (".png", ".svg", ".pdf")
WIDTH = 14.0  # inches
ROW = 0.42
# Of a bar, in shares of the whole, that is drawn at all, and that has room for a name.
NARROWEST = 0.0005
POINTS_OF_A_LETTER = 4.6
COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#86bcb6")
REST_COLOUR = "#d0d0d0"


def draw(profile: Profile, suffix: str = ".png") -> bytes:
    """The content of a picture file.

    Args:
        suffix: one of :data:`FORMATS`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a profile's picture needs matplotlib: pip install 'sam2fast[profile]'") from error
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
    axes.set_title(_title(profile), fontsize=10, loc="left")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format=suffix.removeprefix("."), dpi=120)
    return content.getvalue()


def _title(profile: Profile) -> str:
    s, m = profile.subject, profile.machine
    return (
        f"{s['kind']} {s['width']}x{s['height']} at {s['image_size']}x{s['image_size']}, objects: {s['objects']}; "
        f"{m.get('gpu', m['processor'])}, threads: {m['threads']}"
    )


def _stack(axes: Any, whole: float, part: Part, left: float, row: int, colour: str) -> None:
    """A part above its children, which are drawn from its left end on; the rest of its width is its own."""
    if part.seconds < NARROWEST * whole:
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
    label = f"{part.name}  {part.seconds * 1e3:.1f} ms"
    for text in (label, part.name):
        if room > POINTS_OF_A_LETTER * len(text):
            middle = (left + part.seconds / 2) * 1e3
            axes.text(middle, row + 0.5, text, ha="center", va="center", fontsize=8, clip_on=True)
            return
