"""``docs/speed.svg``: how many times as fast as the official package, a bar for each case and processor."""

import re
from collections.abc import Iterator
from html import escape

from figures.results import Results
from figures.suite import summary

COLOURS = ("#2563eb", "#94a3b8")
LABELS, WIDTH, BAR, GAP = 230, 470, 18, 16  # pixels
FONT = 'font-family="system-ui, sans-serif" font-size="14"'


def speed(results: Results) -> str:
    """The ratios of the summary's table as an SVG image, readable on light and dark pages."""
    head, _, *rows = (line.strip("|").split("|") for line in summary(results).splitlines() if line.startswith("|"))
    names = [name.strip() for name in head[1:]][::-1]
    cases = {row[0].strip(): [ratio(cell) for cell in row[1:]][::-1] for row in rows}
    largest = max(value for values in cases.values() for value in values if value)
    height = GAP + sum(_height(values) for values in cases.values()) + 28
    lines = [*_bars(cases, WIDTH / largest), *_legend(names, height - 12)]
    title = "Times as fast as the official package: " + "; ".join(names)
    size = f'viewBox="0 0 {LABELS + WIDTH + 60} {height}" width="{LABELS + WIDTH + 60}" height="{height}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>', f"<title>{escape(title)}</title>",
                      *lines, "</svg>\n"])  # fmt: skip


def ratio(cell: str) -> float | None:
    found = re.search(r"\*\*([\d.]+)×", cell)
    return float(found[1]) if found else None


def _height(values: list[float | None]) -> int:
    return BAR * sum(value is not None for value in values) + GAP


def _bars(cases: dict[str, list[float | None]], scale: float) -> Iterator[str]:
    top = GAP
    for case, values in cases.items():
        middle = top + (_height(values) - GAP) / 2 + 5
        yield f'<text x="{LABELS - 12}" y="{middle:.0f}" text-anchor="end" fill="#64748b">{escape(case)}</text>'
        y = top
        for colour, value in zip(COLOURS, values, strict=True):
            if value is None:
                continue
            yield f'<rect x="{LABELS}" y="{y}" width="{value * scale:.0f}" height="{BAR - 3}" fill="{colour}"/>'
            yield f'<text x="{LABELS + value * scale + 8:.0f}" y="{y + 12}" fill="#64748b">{value:.2f}×</text>'
            y += BAR
        top += _height(values)


def _legend(names: list[str], y: int) -> Iterator[str]:
    for i, (colour, name) in enumerate(zip(COLOURS, names, strict=True)):
        x = LABELS + 230 * i
        yield f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="{y}" fill="#64748b">{escape(name)}</text>'
