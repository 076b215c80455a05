"""A profile as text: a line for each part."""

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from sam2fast.profiling.profile import MIB, Profile
from sam2fast.profiling.tree import Part

DEPTH = 3
REST = "copies and rest"
# From here on a device's arithmetic is told in TFLOP/s.
FAST_DEVICE = 5e12
INDENT = "  "
# Of a line, from so large a share on.
STYLES = ((0.1, "red"), (0.03, "yellow"), (0.005, "none"))
WORDS = (0, 9)  # columns that are no numbers


class Row(NamedTuple):
    """A part as cells of text, and what its colour depends on."""

    depth: int
    share: float
    cells: tuple[str, ...]


def summary(profile: Profile) -> list[str]:
    """What was profiled, on what, how long it took in all, and what was measured how."""
    s, m = profile.subject, profile.machine
    what = f"{s['kind']} of {s['width']}x{s['height']} at {s['image_size']}x{s['image_size']}, objects: {s['objects']}"
    if s["kind"] == "video":
        what += f", the average of frames {s['first_frame']} to {s['first_frame'] + s['frames'] - 1}"
    where = m.get("gpu", m["processor"])
    limits = ", ".join(f"{dtype} {flops / 1e9:.0f} GFLOP/s" for dtype, flops in profile.limits.flops_per_s.items())
    unit = profile.root.name
    lines = [
        f"{what}, runs: {s['runs']}",
        f"{where}, threads: {m['threads']}, torch {m['torch']}, on {m['device']}",
        f"limits seen: {limits}, {profile.limits.bytes_per_s / 1e9:.1f} GB/s",
        f"{unit}: {_ms(profile.plain)} without instruments, {_ms(profile.profiled)} with them "
        f"({profile.overhead:+.1%}); medians, to the device's end",
    ]
    if profile.as_it_is is not None:
        lines.append(f"{unit} by the predictor as it is, whose faster path cannot be looked into: "
                     f"{_ms(profile.as_it_is)}")  # fmt: skip
    lines += [f"named parts account for {profile.named:.1%}", f"peak: {profile.memory}"]
    return lines


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f} ms"


def header(profile: Profile) -> tuple[str, ...]:
    """The columns' names."""
    flops = "TFLOP/s" if _is_fast(profile) else "GFLOP/s"
    return ("part", "calls", "ms", "self", "share", "GFLOP", flops, "GB/s", "limit", "bound", "peak MiB")


def rows(profile: Profile, depth: int | None = DEPTH) -> Iterator[Row]:
    """The whole, its parts down to a depth, and what they leave."""
    root = profile.root
    for path, part in root.walk():
        level = len(path) - 1
        if depth is None or level <= depth:
            yield Row(level, part.seconds / root.seconds, (INDENT * level + part.name, *_figures(profile, part)))
    rest = root.self_seconds
    empty = ("",) * 6
    cells = (INDENT + REST, "", f"{rest * 1e3:.2f}", "", f"{rest / root.seconds:.1%}", *empty)
    yield Row(1, rest / root.seconds, cells)


def _figures(profile: Profile, part: Part) -> tuple[str, ...]:
    limits, seconds = profile.limits, part.seconds
    rate = 1e12 if _is_fast(profile) else 1e9
    fraction = part.fraction(limits)
    return (
        f"{part.calls:g}",
        f"{seconds * 1e3:.2f}",
        f"{part.self_seconds * 1e3:.2f}" if part.children else "",
        f"{seconds / profile.root.seconds:.1%}",
        f"{part.flops / 1e9:.2f}" if part.flops else "",
        f"{part.flops / seconds / rate:.1f}" if part.flops and seconds else "",
        f"{part.nbytes / seconds / 1e9:.1f}" if part.nbytes and seconds else "",
        "" if fraction is None else f"{fraction:.0%}",
        part.bound(limits) or "",
        "" if part.peak_bytes is None else f"{part.peak_bytes / MIB:.1f}",
    )


def _is_fast(profile: Profile) -> bool:
    return max(profile.limits.flops_per_s.values()) >= FAST_DEVICE


def as_text(profile: Profile, depth: int | None = DEPTH) -> str:
    """The tree in aligned columns under a summary; a depth of None for all of it."""
    return "\n".join([*summary(profile), "", *(line for line, _ in _table(profile, depth))])


def _table(profile: Profile, depth: int | None) -> list[tuple[str, Row | None]]:
    """Lines in aligned columns, words to the left and numbers to the right; the first has the columns' names."""
    found = list(rows(profile, depth))
    table = [header(profile), *(row.cells for row in found)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    lines = []
    for cells in table:
        pairs = enumerate(zip(cells, widths, strict=True))
        padded = [cell.ljust(width) if i in WORDS else cell.rjust(width) for i, (cell, width) in pairs]
        lines.append("  ".join(padded).rstrip())
    return list(zip(lines, [None, *found], strict=True))


def print_profile(profile: Profile, depth: int | None = DEPTH) -> None:
    """Prints the tree; in colours where there is a terminal, and rich is installed."""
    console = _terminal()
    if console is None:
        print(as_text(profile, depth))
        return
    for line in [*summary(profile), ""]:
        console.out(line, highlight=False)
    for line, row in _table(profile, depth):
        console.out(line, style=_style(row), highlight=False)


def _style(row: Row | None) -> str:
    """The more of the time, the warmer; in bold the columns' names and the whole."""
    if row is None or row.depth == 0:
        return "bold"
    return next((style for share, style in STYLES if row.share >= share), "dim")


def _terminal() -> Any:
    """Rich's console, if it is installed and stdout is a terminal."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console()
    return console if console.is_terminal else None
